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
    """Measures floors and moves the multipliers after them.

    A floor has to hold on the validation prompts, which the policy never trains on,
    and by the training prompts' smoothed estimates: few validation prompts may hold
    few hard ones, and a policy is then chosen for its luck on those.

    Args:
        validation: prompts that the policy does not train on.
        training: the smoothed training prompts.
        floors: least quality ratio by task.
        rate: multiplier change per unit of shortfall and dual step.
        confidence: standard errors that a ratio must lie above its floor: on few prompts
            the best of many checkpoints is a lucky one.
        safety: added to every floor, since a few prompts may all be right by luck.
    """

    def __init__(
        self,
        validation: Profile,
        training: Profile,
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
        self._unseen = _Prompts(validation, featurizer, trace, quality, seed)
        self._known = _Prompts(training, featurizer, trace, quality, seed)
        for task in floors:
            for prompts, kind in ((self._unseen, "validation"), (self._known, "training")):
                if not prompts.right_at_l0(task) > 0:
                    raise ConfigError(
                        f"task {task!r}: its floor cannot be checked, since no {kind} prompt of "
                        "it is answered right at L0; record more requests a task"
                    )

    def measure(self, policy: Policy) -> Validation:
        """Expected figures of `policy`; bounds are the worse of the two sets of prompts."""
        chance = self._unseen.chances(policy)
        ratios, bounds = {}, {}
        known = self._known.chances(policy)
        for task in self._floors:
            ratio, error = self._unseen.ratio(task, chance)
            trained, trained_error = self._known.ratio(task, known)
            ratios[task] = ratio
            bounds[task] = min(
                ratio - self._confidence * error, trained - self._confidence * trained_error
            )
        return Validation(
            self._unseen.grams_ratio(chance),
            ratios,
            bounds,
            tuple(float(x) for x in chance.mean(axis=(0, 1))),
            min(bound - self._floors[task] for task, bound in bounds.items()),
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


class _Prompts:
    """Prompts at random hours, each with its task's tag and without, as clients may send it."""

    def __init__(
        self,
        profile: Profile,
        featurizer: Featurizer,
        trace: IntensityTrace,
        quality: str,
        seed: int,
    ) -> None:
        self.scores = profile.quality(quality)
        known = ~np.isnan(self.scores).any(axis=1)
        self.rows = {task: profile.rows_of(task) & known for task in profile.tasks}
        count = len(self.scores)
        times = np.random.default_rng(seed).uniform(trace.start, trace.end, count)
        self._observations = np.concatenate(
            [
                observe(
                    featurizer,
                    request_parts(featurizer, profile.requests, tags),
                    trace,
                    times,
                    np.zeros(count),
                )
                for tags in (True, False)
            ]
        )
        self._grams: Floats = footprint_grams(
            profile.energy_joules, profile.device_seconds, trace.at(times)[:, None]
        )

    def right_at_l0(self, task: str) -> float:
        """Sum of the quality under L0; 0 where the task has no prompts."""
        return float(self.scores[self.rows[task], 0].sum()) if task in self.rows else 0.0

    def chances(self, policy: Policy) -> Floats:
        """Probabilities with and without tags, shape (2, n, n_directives)."""
        return policy.probabilities(self._observations).reshape(2, *self.scores.shape)

    def grams_ratio(self, chance: Floats) -> float:
        """Expected footprint relative to always L0."""
        return float((self._grams * chance.mean(axis=0)).sum() / self._grams[:, 0].sum())

    def ratio(self, task: str, chance: Floats) -> tuple[float, float]:
        """Quality relative to L0, and its standard error by the delta method."""
        rows = self.rows[task]
        kept = (self.scores[rows] * chance.mean(axis=0)[rows]).sum(axis=1)
        reference = self.scores[rows, 0]
        ratio = float(kept.sum() / reference.sum())
        spread = float((kept - ratio * reference).std())
        return ratio, spread * float(np.sqrt(len(kept))) / float(reference.sum())
