"""Methods that solve linear programs on means: SPROUT's, and one a task."""

import numpy as np

from agents.methods.linear_program import cheapest_mixes
from agents.methods.method import HINDSIGHT, ORACLE
from agents.methods.scene import Scene
from agents.methods.sprout import largest_savings_first
from envs.arrays import Float64Array
from envs.carbon.footprint import footprint_grams


class SproutLP:
    """`sprout_lp`: SPROUT's program, solved each hour: one mix for all requests of the hour.

    Joules, seconds and quality are means under the hour's task mix. The floor holds on
    the average of all requests only: the tasks' floors weighted by what they are worth
    at L0. (The published floor, which follows the intensity, and the evaluator are in the
    reproduction of the published table.)
    """

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        moments = scene.moments
        first = np.unique(moments, return_index=True)[1]
        shares = scene.mix.at(scene.hours[first])
        return _sprout_mixes(scene, scene.intensity[first], shares)[moments]


class SproutStatic:
    """`sprout_static`: SPROUT's program solved once, at the mean intensity and mix."""

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        return np.tile(_static_mix(scene), (len(scene), 1))


class SproutOracle:
    """`sprout_oracle`: `sprout_static`'s shares, given to the requests that save most.

    The paper's "oracle": it knows each request's footprint but not its quality, so that it
    may break the floor, and is no upper bound.
    """

    knows = ORACLE

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        mix = _static_mix(scene)
        actions = largest_savings_first(scene.grams[None], mix, scene.weights[None])[0]
        chosen: Float64Array = np.eye(mix.shape[1])[actions]
        return chosen


class PerTaskLP:
    """`per_task_lp`: one program a task, with the task's own floor: the baseline to beat."""

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        costs, scores = scene.task_means(scene.grams), scene.task_means(scene.scores)
        least = np.array(list(scene.floors.values())) * scores[:, 0]
        mixes = cheapest_mixes(costs, scores[:, None, :], least[:, None])
        table = np.empty(scene.scores.shape)
        for task, mix in zip(scene.floors, mixes, strict=True):
            table[scene.rows_of(task)] = mix
        return table


def _static_mix(scene: Scene) -> Float64Array:
    """SPROUT's one mix for the whole scene, shape (1, D)."""
    shares = np.array([[scene.weights[scene.rows_of(task)].sum() for task in scene.floors]])
    return _sprout_mixes(
        scene, np.array([scene.means(scene.intensity)]), shares / scene.weights.sum()
    )


def _sprout_mixes(scene: Scene, intensity: Float64Array, shares: Float64Array) -> Float64Array:
    """SPROUT's mix for each intensity (G,) and task mix (G, tasks), shape (G, D)."""
    scores = scene.task_means(scene.scores)
    energy = shares @ scene.task_means(scene.profile.outcomes.energy_joules)
    seconds = shares @ scene.task_means(scene.profile.outcomes.device_seconds)
    costs = footprint_grams(energy, seconds, intensity[:, None])
    least = shares @ (np.array(list(scene.floors.values())) * scores[:, 0])
    return cheapest_mixes(costs, (shares @ scores)[:, None, :], least[:, None])
