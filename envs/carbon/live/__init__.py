"""Live sources of carbon intensity, and the outlook on a grid that they give."""
