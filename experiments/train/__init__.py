"""`sprout train` and `sprout bundle`: make a policy bundle from a profile or a checkpoint."""
