"""The requests that can be steered, by route: how to read and change them, and their answers."""
