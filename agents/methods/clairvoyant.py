"""`clairvoyant`: knows every outcome, and so is the true bound of what any method can save."""

from dataclasses import dataclass

import numpy as np

from agents.methods.dual_price import cheapest_choices
from agents.methods.method import ORACLE
from agents.methods.scene import Scene
from envs.arrays import BoolArray, Float64Array


@dataclass(frozen=True)
class Clairvoyant:
    """The least footprint at which the floors hold, each request's outcomes known.

    Attributes:
        per_task: every task keeps its own floor (`clairvoyant`), or only the average of
            all requests keeps one (`clairvoyant_global`).
    """

    per_task: bool = True
    knows = ORACLE

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        table = np.zeros(scene.scores.shape)
        for rows, least in self._floors(scene):
            weights = scene.weights[rows, None]
            table[rows] = cheapest_choices(
                weights * scene.grams[rows], weights * scene.scores[rows], least
            )
        return table

    def _floors(self, scene: Scene) -> list[tuple[BoolArray, float]]:
        """Groups of requests and the total score that each has to reach."""
        rows = [scene.rows_of(task) for task in scene.floors]
        least = [
            floor * float((scene.weights[mine] * scene.scores[mine, 0]).sum())
            for mine, floor in zip(rows, scene.floors.values(), strict=True)
        ]
        if self.per_task:
            return list(zip(rows, least, strict=True))
        return [(np.ones(len(scene), dtype=np.bool_), sum(least))]


def clairvoyant_global() -> Clairvoyant:
    """`clairvoyant_global`: one floor, on the average of all requests."""
    return Clairvoyant(per_task=False)
