"""`sprout bench gpu`: joules of Llama-2 shapes with random weights on a real GPU."""
