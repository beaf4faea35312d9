"""Multipliers of the per-task quality floors, driven by prompts the policy does not train on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.expectation import quality_ratio
from agents.policy import Policy
from envs.carbon import IntensityTrace
from envs.errors import ConfigError
from envs.features import Featurizer
from envs.footprint import footprint_grams
from envs.profile import Profile
from envs.world import observe, request_parts

MAX_MULTIPLIER = 20.0


@dataclass(frozen=True)
class Validation:
    """A policy's expected figures on validation prompts.

    Attributes:
        grams_ratio: footprint relative to always L0.
        ratio_by_task: quality relative to L0.
        share: mean probability of each directive.
        worst_margin: least of (ratio - floor) over tasks.
    """

    grams_ratio: float
    ratio_by_task: dict[str, float]
    share: tuple[float, ...]
    worst_margin: float


class Constraint:
    """Measures floors on a validation profile and moves the multipliers after them.

    Args:
        floors: least quality ratio by task.
        rate: multiplier change per unit of shortfall and dual step.
        safety: added to every floor, since a ratio on few prompts is uncertain.
    """

    def __init__(
        self,
        profile: Profile,
        featurizer: Featurizer,
        trace: IntensityTrace,
        floors: Mapping[str, float],
        *,
        quality: str,
        rate: float,
        safety: float,
        seed: int,
    ) -> None:
        self._floors = dict(floors)
        self._rate = rate
        self._safety = safety
        # Every prompt twice: with its task's tag and without one, as clients may send it.
        self._scores = np.tile(profile.quality(quality), (2, 1))
        self._rows = {task: np.tile(profile.rows_of(task), 2) for task in floors}
        count = len(self._scores)
        for task, rows in self._rows.items():
            if np.isnan(quality_ratio(self._scores[rows], np.ones_like(self._scores[rows]))):
                raise ConfigError(
                    f"task {task!r}: its floor cannot be checked, since none of its "
                    f"{int(rows.sum()) // 2} validation prompts is answered right at L0; "
                    "record more requests a task"
                )
        times = np.random.default_rng(seed).uniform(trace.start, trace.end, count)
        parts = np.concatenate(
            [request_parts(featurizer, profile.requests, tags) for tags in (True, False)]
        )
        self._observations = observe(featurizer, parts, trace, times, np.zeros(count))
        self._grams: NDArray[np.float64] = footprint_grams(
            np.tile(profile.energy_joules, (2, 1)),
            np.tile(profile.device_seconds, (2, 1)),
            trace.at(times)[:, None],
        )

    def measure(self, policy: Policy) -> Validation:
        """Expected figures of `policy`."""
        chance = policy.probabilities(self._observations)
        ratios = {
            task: quality_ratio(self._scores[rows], chance[rows])
            for task, rows in self._rows.items()
        }
        margins = [ratio - self._floors[task] for task, ratio in ratios.items()]
        return Validation(
            float((self._grams * chance).sum() / self._grams[:, 0].sum()),
            ratios,
            tuple(float(x) for x in chance.mean(axis=0)),
            min(margins),
        )

    def moved(self, multipliers: Mapping[str, float], found: Validation) -> dict[str, float]:
        """Dual ascent: lambda + rate * (floor + safety - ratio), within 0..MAX_MULTIPLIER."""
        return {
            task: float(
                np.clip(
                    value
                    + self._rate * (self._floors[task] + self._safety - found.ratio_by_task[task]),
                    0.0,
                    MAX_MULTIPLIER,
                )
            )
            for task, value in multipliers.items()
        }

    def kept(self, found: Validation) -> bool:
        """Whether every floor holds with the safety margin."""
        return found.worst_margin >= self._safety
