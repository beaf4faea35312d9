"""`sprout quality` and `sprout review`: the quality of live answers, and people as judges of it."""
