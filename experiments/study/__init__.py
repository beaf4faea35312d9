"""Many trainings, judged on prompts that each has never seen."""
