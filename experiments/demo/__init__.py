"""`sprout demo`: the whole loop on the embedded Llama."""
