"""Benchmarks of the watched quality."""
