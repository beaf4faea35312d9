"""`sprout profile` and `sprout calibrate`: recordings from a live server."""
