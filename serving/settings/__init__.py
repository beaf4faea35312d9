"""Settings of the hook and the gateway, and the operators' run-time settings."""
