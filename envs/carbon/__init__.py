"""Carbon intensity of the grid, from files or live sources, and the footprint of requests."""
