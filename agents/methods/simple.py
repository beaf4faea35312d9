"""Methods that need no solver: fixed levels, chance, and brevity on dirty hours."""

import numpy as np

from agents.methods.method import HINDSIGHT, NOTHING
from agents.methods.scene import Scene
from envs.arrays import Float64Array


class Base:
    """`base`: always L0."""

    knows = NOTHING

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        return always(scene, 0)


class LeastCarbon:
    """`co2_opt`: always the directive of the least mean footprint; keeps no floor."""

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        return always(scene, int(scene.means(scene.grams).argmin()))


class RandomDirective:
    """`random`: every directive equally often; keeps no floor."""

    knows = NOTHING

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        shape = scene.scores.shape
        return np.full(shape, 1 / shape[1])


class IntensityThreshold:
    """`intensity_threshold`: one short directive for all requests while the grid is dirty.

    Of all pairs of a directive and a threshold, the one that emits least while every
    task's floor holds over the scene.
    """

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        order = np.argsort(-scene.intensity, kind="stable")
        # Only whole hours: requests at one intensity are treated alike.
        ends = np.append(np.diff(scene.intensity[order]) != 0, True)
        best, saved = always(scene, 0), 0.0
        for directive in range(1, scene.scores.shape[1]):
            kept = ends.copy()
            for task, floor in scene.floors.items():
                mine = scene.weights * scene.rows_of(task)
                lost = (mine * (scene.scores[:, 0] - scene.scores[:, directive]))[order]
                slack = (1 - floor) * float((mine * scene.scores[:, 0]).sum())
                kept &= np.cumsum(lost) <= slack + 1e-12
            gained = np.cumsum(
                (scene.weights * (scene.grams[:, 0] - scene.grams[:, directive]))[order]
            )
            if kept.any() and gained[kept].max() > saved:
                last = int(np.flatnonzero(kept)[gained[kept].argmax()])
                saved = float(gained[last])
                best = always(scene, 0)
                best[order[: last + 1]] = np.eye(best.shape[1])[directive]
        return best


def always(scene: Scene, directive: int) -> Float64Array:
    """The same directive for every request, shape (n, D)."""
    table = np.zeros(scene.scores.shape)
    table[:, directive] = 1.0
    return table
