"""`sprout demo`: the whole closed loop on the embedded Llama."""
