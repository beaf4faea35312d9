"""The world: requests, directives, carbon, energy, quality, the environments."""
