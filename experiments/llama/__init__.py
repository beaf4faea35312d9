"""The embedded Llama: its training, its weights, and the live server."""
