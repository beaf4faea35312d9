"""Processes of `sprout serve`: the supervisor, the workers, and what runs beside them."""
