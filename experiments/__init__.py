"""The `sprout` commands: training, evaluation, serving and benchmarks."""
