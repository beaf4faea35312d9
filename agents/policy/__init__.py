"""Trained policies without torch: the bundle, its network, and explanations of it."""
