"""Trained policies: the bundle, its NumPy network, and explanations of its decisions."""
