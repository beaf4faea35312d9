"""Evaluation of methods and trained policies on recorded outcomes."""
