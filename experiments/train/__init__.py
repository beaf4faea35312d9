"""`sprout train` and `sprout bundle`: from a profile to a policy bundle."""
