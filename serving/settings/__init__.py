"""Settings of the hook and the gateway, and what operators change at run time."""
