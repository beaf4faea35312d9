"""Sources of outcomes, a live server or a recorded profile, behind one protocol."""
