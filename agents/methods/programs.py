"""Methods that solve linear programs on means: SPROUT's, and one a task."""

import numpy as np

from agents.linear_program import cheapest_mixes
from agents.methods.method import HINDSIGHT, ORACLE, Floats
from agents.scene import Scene
from agents.sprout import largest_savings_first
from envs.footprint import footprint_grams


class SproutLP:
    """`sprout_lp`: SPROUT's program, solved each hour: one mix for all requests of the hour.

    Its floor holds on the average of all requests only: equal to the tasks' floor, or
    their mean weighted by L0's quality. (The published floor, which follows the intensity,
    and its evaluator are in the reproduction of the published table.)
    """

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Floats:
        """See `Method`."""
        moments = scene.moments
        first = np.unique(moments, return_index=True)[1]
        per_gram = _grams_at(scene, scene.intensity[first])
        return _sprout_mixes(scene, per_gram)[moments]


class SproutStatic:
    """`sprout_static`: SPROUT's program solved once, at the scene's mean intensity."""

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Floats:
        """See `Method`."""
        costs = _grams_at(scene, np.array([scene.means(scene.intensity)]))
        return np.tile(_sprout_mixes(scene, costs), (len(scene), 1))


class SproutOracle:
    """`sprout_oracle`: `sprout_static`'s shares, given to the requests that save most.

    The paper's "oracle": it knows each request's footprint but not its quality, so that it
    may break the floor, and is no upper bound.
    """

    knows = ORACLE

    def choose(self, scene: Scene) -> Floats:
        """See `Method`."""
        costs = _grams_at(scene, np.array([scene.means(scene.intensity)]))
        actions = largest_savings_first(scene.grams[None], _sprout_mixes(scene, costs))[0]
        chosen: Floats = np.eye(costs.shape[1])[actions]
        return chosen


class PerTaskLP:
    """`per_task_lp`: one program a task, with the task's own floor: the baseline to beat."""

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Floats:
        """See `Method`."""
        rows = {task: scene.rows_of(task) for task in scene.floors}
        costs = np.array([scene.means(scene.grams, mine) for mine in rows.values()])
        scores = np.array([scene.means(scene.scores, mine) for mine in rows.values()])
        least = np.array(list(scene.floors.values())) * scores[:, 0]
        mixes = cheapest_mixes(costs, scores[:, None, :], least[:, None])
        table = np.empty(scene.scores.shape)
        for mine, mix in zip(rows.values(), mixes, strict=True):
            table[mine] = mix
        return table


def _grams_at(scene: Scene, intensity: Floats) -> Floats:
    """Mean footprint of each directive at each intensity, shape (len(intensity), D)."""
    energy = scene.means(scene.profile.energy_joules)
    seconds = scene.means(scene.profile.device_seconds)
    return footprint_grams(energy, seconds, intensity[:, None])


def _sprout_mixes(scene: Scene, costs: Floats) -> Floats:
    scores = np.broadcast_to(scene.means(scene.scores), (len(costs), 1, costs.shape[1]))
    least = np.full((len(costs), 1), scene.least_score())
    return cheapest_mixes(costs, scores, least)
