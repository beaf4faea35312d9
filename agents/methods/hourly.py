"""Programs that know the grid's hour but not a request's quality: what else is left to learn."""

from dataclasses import dataclass

import numpy as np

from agents.methods.dual_price import cheapest_choices
from agents.methods.method import HINDSIGHT, ORACLE
from agents.methods.scene import Scene
from envs.arrays import Float64Array
from envs.carbon.footprint import footprint_grams


@dataclass(frozen=True)
class HourlyTaskLP:
    """`hourly_task_lp`: each task's program over all hours at once, brief where it is dirty.

    As `per_task_lp` it takes all requests of a task for alike (their mean joules, seconds
    and quality), and its floors bind over all hours together. What a learned policy has
    beyond it comes from looking at the request.

    Attributes:
        own_costs: every request's own joules and seconds are known (`known_cost_lp`): no
            forecast of costs can bring more, unless it tells something of quality.
    """

    own_costs: bool = False

    @property
    def knows(self) -> str:
        """See `Method`."""
        return ORACLE if self.own_costs else HINDSIGHT

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        table = np.zeros(scene.scores.shape)
        for task, floor in scene.floors.items():
            rows = scene.rows_of(task)
            weights = scene.weights[rows, None]
            scores = np.tile(scene.means(scene.scores, rows), (int(rows.sum()), 1))
            table[rows] = cheapest_choices(
                weights * (scene.grams[rows] if self.own_costs else _mean_grams(scene, task)),
                weights * scores,
                floor * float((weights[:, 0] * scores[:, 0]).sum()),
            )
        return table


def known_cost_lp() -> HourlyTaskLP:
    """`known_cost_lp`: see `HourlyTaskLP.own_costs`."""
    return HourlyTaskLP(own_costs=True)


def _mean_grams(scene: Scene, task: str) -> Float64Array:
    """Footprint of the task's mean request at each of its requests' hours, shape (rows, D)."""
    rows = scene.rows_of(task)
    return footprint_grams(
        scene.means(scene.profile.outcomes.energy_joules, rows),
        scene.means(scene.profile.outcomes.device_seconds, rows),
        scene.intensity[rows, None],
    )
