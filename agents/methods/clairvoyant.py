"""`clairvoyant`: knows every outcome, and so is an upper bound on any method's savings."""

from dataclasses import dataclass

import numpy as np

from agents.methods.dual_price import cheapest_choices
from agents.methods.method import ORACLE
from agents.methods.scene import Scene
from envs.arrays import BoolArray, Float64Array


@dataclass(frozen=True)
class Clairvoyant:
    """Minimises the footprint subject to the floors, with every request's outcomes known.

    Attributes:
        per_task: True for one floor per task (`clairvoyant`); False for a single floor on the
            average of all requests (`clairvoyant_global`).
    """

    per_task: bool = True
    knows = ORACLE

    def choose(self, scene: Scene) -> Float64Array:
        """Return the optimal probability of each directive, shape (n, D)."""
        probabilities = np.zeros(scene.scores.shape)
        for rows, least in self._floors(scene):
            weights = scene.weights[rows, None]
            probabilities[rows] = cheapest_choices(
                weights * scene.grams[rows], weights * scene.scores[rows], least
            )
        return probabilities

    def _floors(self, scene: Scene) -> list[tuple[BoolArray, float]]:
        """Return the mask of each group of requests and the total score that it must reach."""
        groups = [scene.rows_of(task) for task in scene.floors]
        least = [
            floor * float((scene.weights[rows] * scene.scores[rows, 0]).sum())
            for rows, floor in zip(groups, scene.floors.values(), strict=True)
        ]
        if self.per_task:
            return list(zip(groups, least, strict=True))
        return [(np.ones(len(scene), dtype=np.bool_), sum(least))]


def clairvoyant_global() -> Clairvoyant:
    """Return `clairvoyant_global`: a single floor on the average of all requests."""
    return Clairvoyant(per_task=False)
