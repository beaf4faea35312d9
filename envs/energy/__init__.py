"""Joules: meters, the work that requests cause, and the attribution of one to the other."""
