"""Multipliers of the per-task quality floors, driven by prompts the policy does not train on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.policy import Policy
from envs.carbon import IntensityTrace
from envs.errors import ConfigError
from envs.features import Featurizer
from envs.footprint import footprint_grams
from envs.profile import Profile
from envs.world import observe, request_parts

Floats = NDArray[np.float64]
MAX_MULTIPLIER = 20.0


@dataclass(frozen=True)
class Validation:
    """A policy's expected figures on validation prompts.

    Attributes:
        grams_ratio: footprint relative to always L0.
        ratio_by_task: quality relative to L0.
        bound_by_task: what that ratio is at least, with the confidence asked for.
        share: mean probability of each directive.
        worst_margin: least of (bound - floor) over tasks.
    """

    grams_ratio: float
    ratio_by_task: dict[str, float]
    bound_by_task: dict[str, float]
    share: tuple[float, ...]
    worst_margin: float


class Constraint:
    """Measures floors on a validation profile and moves the multipliers after them.

    Args:
        floors: least quality ratio by task.
        rate: multiplier change per unit of shortfall and dual step.
        confidence: standard errors that a ratio must lie above its floor: on few prompts
            the best of many checkpoints is a lucky one.
        safety: added to every floor, since a few prompts may all be right by luck.
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
        confidence: float,
        safety: float,
        seed: int,
    ) -> None:
        self._floors = dict(floors)
        self._rate = rate
        self._confidence = confidence
        self._safety = safety
        self._scores = profile.quality(quality)
        self._rows = {
            task: profile.rows_of(task) & ~np.isnan(self._scores).any(axis=1) for task in floors
        }
        for task, rows in self._rows.items():
            if not self._scores[rows, 0].sum() > 0:
                raise ConfigError(
                    f"task {task!r}: its floor cannot be checked, since none of its "
                    f"{int(rows.sum())} validation prompts is answered right at L0; "
                    "record more requests a task"
                )
        # Every prompt twice: with its task's tag and without one, as clients may send it.
        count = 2 * len(self._scores)
        times = np.random.default_rng(seed).uniform(trace.start, trace.end, count)
        parts = np.concatenate(
            [request_parts(featurizer, profile.requests, tags) for tags in (True, False)]
        )
        self._observations = observe(featurizer, parts, trace, times, np.zeros(count))
        self._grams: Floats = footprint_grams(
            np.tile(profile.energy_joules, (2, 1)),
            np.tile(profile.device_seconds, (2, 1)),
            trace.at(times)[:, None],
        )

    def measure(self, policy: Policy) -> Validation:
        """Expected figures of `policy`."""
        chance = policy.probabilities(self._observations)
        either = chance.reshape(2, *self._scores.shape).mean(axis=0)
        ratios, bounds = {}, {}
        for task, rows in self._rows.items():
            ratio, error = _ratio_with_error(
                (self._scores[rows] * either[rows]).sum(axis=1), self._scores[rows, 0]
            )
            ratios[task], bounds[task] = ratio, ratio - self._confidence * error
        margins = [bound - self._floors[task] for task, bound in bounds.items()]
        return Validation(
            float((self._grams * chance).sum() / self._grams[:, 0].sum()),
            ratios,
            bounds,
            tuple(float(x) for x in chance.mean(axis=0)),
            min(margins),
        )

    def moved(self, multipliers: Mapping[str, float], found: Validation) -> dict[str, float]:
        """Dual ascent: lambda + rate * (floor + safety - bound), within 0..MAX_MULTIPLIER."""
        return {
            task: float(
                np.clip(
                    value
                    + self._rate * (self._floors[task] + self._safety - found.bound_by_task[task]),
                    0.0,
                    MAX_MULTIPLIER,
                )
            )
            for task, value in multipliers.items()
        }

    def kept(self, found: Validation) -> bool:
        """Whether every floor holds with its confidence and safety."""
        return found.worst_margin >= self._safety


def _ratio_with_error(kept: Floats, reference: Floats) -> tuple[float, float]:
    """Ratio of means and its standard error by linearisation (the delta method)."""
    ratio = float(kept.sum() / reference.sum())
    spread = float((kept - ratio * reference).std())
    return ratio, spread * float(np.sqrt(len(kept))) / float(reference.sum())
