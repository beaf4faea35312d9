"""Methods that solve linear programs on mean outcomes: SPROUT's, and one program per task."""

import numpy as np

from agents.methods.linear_program import cheapest_mixes
from agents.methods.method import HINDSIGHT, ORACLE
from agents.methods.scene import Scene
from agents.methods.sprout import largest_savings_first
from envs.arrays import Float64Array
from envs.carbon.footprint import footprint_grams


class SproutLP:
    """`sprout_lp`: SPROUT's linear program, solved every hour for one mix per hour.

    Energy, device time and quality are means under the hour's mix of tasks. The floor holds only
    on the average of all requests: it is the sum of the tasks' floors, weighted by the tasks'
    shares and qualities under L0. (The published floor, which depends on the intensity, and the
    evaluator are part of the reproduction of the published table.)
    """

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """Return the mix of each request's hour and zone, shape (n, D)."""
        moments = scene.moments
        first = np.unique(moments, return_index=True)[1]
        shares = scene.mix.at(scene.hours[first])
        return _sprout_mixes(scene, scene.intensity[first], shares)[moments]


class SproutStatic:
    """`sprout_static`: SPROUT's linear program, solved once at the mean intensity and task mix."""

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """Return the same mix for every request, shape (n, D)."""
        return np.tile(_static_mix(scene), (len(scene), 1))


class SproutOracle:
    """`sprout_oracle`: `sprout_static`'s shares, assigned to the requests that save most.

    The paper's "oracle". It knows each request's footprint but not its quality, so it may break
    the floor, and it is not an upper bound on savings.
    """

    knows = ORACLE

    def choose(self, scene: Scene) -> Float64Array:
        """Return the chosen directives as one-hot rows, shape (n, D)."""
        mix = _static_mix(scene)
        actions = largest_savings_first(scene.grams[None], mix, scene.weights[None])[0]
        one_hot: Float64Array = np.eye(mix.shape[1])[actions]
        return one_hot


class PerTaskLP:
    """`per_task_lp`: one linear program and floor per task. The main baseline."""

    knows = HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """Return the mix of each request's task, shape (n, D)."""
        costs, scores = scene.task_means(scene.grams), scene.task_means(scene.scores)
        least = np.array(list(scene.floors.values())) * scores[:, 0]
        mixes = cheapest_mixes(costs, scores[:, None, :], least[:, None])
        probabilities = np.empty(scene.scores.shape)
        for task, mix in zip(scene.floors, mixes, strict=True):
            probabilities[scene.rows_of(task)] = mix
        return probabilities


def _static_mix(scene: Scene) -> Float64Array:
    """Return SPROUT's single mix for the whole scene, shape (1, D)."""
    shares = np.array([[scene.weights[scene.rows_of(task)].sum() for task in scene.floors]])
    return _sprout_mixes(
        scene, np.array([scene.means(scene.intensity)]), shares / scene.weights.sum()
    )


def _sprout_mixes(scene: Scene, intensity: Float64Array, shares: Float64Array) -> Float64Array:
    """Return SPROUT's mix of directives for each of G hours, shape (G, D).

    Args:
        scene: supplies mean outcomes and floors by task.
        intensity: gCO2e/kWh, shape (G,).
        shares: share of each task, shape (G, tasks).
    """
    scores = scene.task_means(scene.scores)
    energy = shares @ scene.task_means(scene.profile.outcomes.energy_joules)
    seconds = shares @ scene.task_means(scene.profile.outcomes.device_seconds)
    costs = footprint_grams(energy, seconds, intensity[:, None])
    least = shares @ (np.array(list(scene.floors.values())) * scores[:, 0])
    return cheapest_mixes(costs, (shares @ scores)[:, None, :], least[:, None])
