"""`sprout bench gpu`: joules of Llama-2 models with random weights on a real GPU."""
