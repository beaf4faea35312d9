"""Studies: many trainings, each evaluated on prompts that it was not trained on."""
