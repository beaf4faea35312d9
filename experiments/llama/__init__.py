"""The embedded Llama: training, weights, and the live server that serves it."""
