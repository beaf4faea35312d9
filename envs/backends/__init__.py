"""Where outcomes come from: a live server or a recorded profile, behind one protocol."""
