"""Energy in joules: meters, the work that requests cause, and the split of one by the other."""
