"""Reproductions of published tables; each one is a command."""

from experiments.reproduce.sprout import ReproduceSprout

REPRODUCTIONS = {"sprout": ReproduceSprout}
