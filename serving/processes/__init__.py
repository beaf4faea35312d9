"""Processes of `sprout serve`: the supervisor, its services, and the workers."""
