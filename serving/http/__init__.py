"""HTTP around the hook: the relay to the upstream, the hook's own routes, the admin application."""
