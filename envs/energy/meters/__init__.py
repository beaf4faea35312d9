"""Meters by device, and the choice among them."""
