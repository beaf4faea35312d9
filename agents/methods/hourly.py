"""Linear programs that know each hour's intensity but not each request's quality.

The gap to them shows what a learned policy gains from looking at the request.
"""

from dataclasses import dataclass

import numpy as np

from agents.methods.dual_price import cheapest_choices
from agents.methods.method import HINDSIGHT, ORACLE
from agents.methods.scene import Scene
from envs.arrays import Float64Array
from envs.carbon.footprint import footprint_grams


@dataclass(frozen=True)
class HourlyTaskLP:
    """`hourly_task_lp`: one linear program per task over all hours; brief on dirty hours.

    Like `per_task_lp`, it treats all requests of a task alike (their mean energy, device time
    and quality). Its floors bind over all hours together.

    Attributes:
        own_costs: whether each request's own energy and device time are known
            (`known_cost_lp`). This bounds the gain from predicting costs, unless the prediction
            is also informative about quality.
    """

    own_costs: bool = False

    @property
    def knows(self) -> str:
        """ORACLE if each request's own costs are known, else HINDSIGHT."""
        return ORACLE if self.own_costs else HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """Return the probability of each directive for each request, shape (n, D)."""
        probabilities = np.zeros(scene.scores.shape)
        for task, floor in scene.floors.items():
            rows = scene.rows_of(task)
            weights = scene.weights[rows, None]
            scores = np.tile(scene.means(scene.scores, rows), (int(rows.sum()), 1))
            probabilities[rows] = cheapest_choices(
                weights * (scene.grams[rows] if self.own_costs else _mean_grams(scene, task)),
                weights * scores,
                floor * float((weights[:, 0] * scores[:, 0]).sum()),
            )
        return probabilities


def known_cost_lp() -> HourlyTaskLP:
    """Return `known_cost_lp`: the program with each request's own costs known."""
    return HourlyTaskLP(own_costs=True)


def _mean_grams(scene: Scene, task: str) -> Float64Array:
    """Return the footprint of a task's mean request at each of its requests' hours.

    In gCO2e, shape (number of the task's requests, D).
    """
    rows = scene.rows_of(task)
    return footprint_grams(
        scene.means(scene.profile.outcomes.energy_joules, rows),
        scene.means(scene.profile.outcomes.device_seconds, rows),
        scene.intensity[rows, None],
    )
