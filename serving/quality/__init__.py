"""Watches the quality of live answers: evidence, its statistics, and a guard that acts on it."""
