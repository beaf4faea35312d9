"""The constrained problem of an environment, from plain arguments that are checked at `make`."""
