"""`sprout profile` and `sprout calibrate`: what is recorded from a live server."""
