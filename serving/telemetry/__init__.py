"""What operators watch: metrics, traces, and the log of internal errors."""
