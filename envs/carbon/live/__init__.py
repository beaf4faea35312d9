"""Live sources of carbon intensity, and what is known of a grid from them."""
