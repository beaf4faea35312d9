"""Costs and qualities of answered requests: profiles, floors, latency limits, the reward."""
