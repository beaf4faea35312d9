"""Reproductions of published tables, each a command."""

from experiments.reproduce.sprout import ReproduceSprout

REPRODUCTIONS = {"sprout": ReproduceSprout}
