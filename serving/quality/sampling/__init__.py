"""Which answers are judged, how many of them, and when."""
