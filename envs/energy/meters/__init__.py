"""Energy meters by device, and the choice among them."""
