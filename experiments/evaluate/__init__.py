"""Evaluation of methods on recorded outcomes."""
