"""What a choice rule costs and is worth on a profile, in expectation over its sampling."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.profile import Profile

Floats = NDArray[np.float64]


def quality_ratio(scores: Floats, probabilities: Floats) -> float:
    """Expected quality relative to L0 on the same requests; NaN if L0's is 0 or unknown.

    Args:
        scores, probabilities: shape (n, n_directives).
    """
    known = ~np.isnan(scores).any(axis=1)
    reference = float(scores[known, 0].sum()) if known.any() else 0.0
    if reference <= 0:
        return float("nan")
    return float((scores[known] * probabilities[known]).sum()) / reference


@dataclass(frozen=True)
class Expectation:
    """Expected figures of a rule on a profile.

    Attributes:
        joules_per_request, tokens_per_request, seconds_per_request: means.
        share: probability of each directive, averaged over requests.
        ratio_by_task: quality relative to L0 on the same requests; tasks without a
            known quality are left out.
    """

    joules_per_request: float
    tokens_per_request: float
    seconds_per_request: float
    share: tuple[float, ...]
    ratio_by_task: dict[str, float]


def expectation(profile: Profile, probabilities: Floats, quality: str = "correct") -> Expectation:
    """Expected figures of choosing by `probabilities`, shape (R, D)."""
    scores = profile.quality(quality)
    ratios = {
        task: quality_ratio(scores[rows], probabilities[rows])
        for task in profile.tasks
        if (rows := profile.rows_of(task)).any()
    }

    def mean(costs: Floats) -> float:
        return float((costs * probabilities).sum(axis=1).mean())

    return Expectation(
        mean(profile.energy_joules),
        mean(profile.completion_tokens),
        mean(profile.latency_seconds),
        tuple(float(x) for x in probabilities.mean(axis=0)),
        {task: ratio for task, ratio in ratios.items() if not np.isnan(ratio)},
    )
