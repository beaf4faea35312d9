"""Methods without a solver: fixed directives, uniform random, and an intensity threshold."""

import numpy as np

from agents.methods.method import HINDSIGHT, NOTHING
from agents.methods.scene import Scene
from envs.arrays import Float64Array


class Base:
    """`base`: always L0."""

    knows = NOTHING

    def choose(self, scene: Scene) -> Float64Array:
        """Return probability 1 for L0 on every request, shape (n, D)."""
        return always(scene, 0)


class LeastCarbon:
    """`co2_opt`: always the directive with the least mean footprint; ignores the floors."""

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """Return probability 1 for the directive of least mean footprint, shape (n, D)."""
        return always(scene, int(scene.means(scene.grams).argmin()))


class RandomDirective:
    """`random`: each directive with equal probability; ignores the floors."""

    knows = NOTHING

    def choose(self, scene: Scene) -> Float64Array:
        """Return equal probabilities, shape (n, D)."""
        shape = scene.scores.shape
        return np.full(shape, 1 / shape[1])


class IntensityThreshold:
    """`intensity_threshold`: one short directive for all requests while the grid is dirty.

    Uses the pair of directive and intensity threshold that emits least among those that keep
    every task's floor over the scene.
    """

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """Return probability 1 for L0 or, on dirty hours, for the short directive, shape (n, D)."""
        order = np.argsort(-scene.intensity, kind="stable")
        # Candidate thresholds: requests at the same intensity must be treated alike.
        boundaries = np.append(np.diff(scene.intensity[order]) != 0, True)
        best, most_saved = always(scene, 0), 0.0
        for directive in range(1, scene.scores.shape[1]):
            feasible = boundaries.copy()
            for task, floor in scene.floors.items():
                task_weights = scene.weights * scene.rows_of(task)
                loss = (task_weights * (scene.scores[:, 0] - scene.scores[:, directive]))[order]
                slack = (1 - floor) * float((task_weights * scene.scores[:, 0]).sum())
                feasible &= np.cumsum(loss) <= slack + 1e-12
            saved = np.cumsum(
                (scene.weights * (scene.grams[:, 0] - scene.grams[:, directive]))[order]
            )
            if feasible.any() and saved[feasible].max() > most_saved:
                last = int(np.flatnonzero(feasible)[saved[feasible].argmax()])
                most_saved = float(saved[last])
                best = always(scene, 0)
                best[order[: last + 1]] = np.eye(best.shape[1])[directive]
        return best


def always(scene: Scene, directive: int) -> Float64Array:
    """Return probability 1 for the same directive on every request, shape (n, D)."""
    probabilities = np.zeros(scene.scores.shape)
    probabilities[:, directive] = 1.0
    return probabilities
