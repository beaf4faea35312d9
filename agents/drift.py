"""How far a live server has moved from the profile that a policy was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from agents.prepared import Prepared
from envs.outcome import Outcomes
from envs.request import Request
from envs.structure import Array

Floats = NDArray[np.float64]
COSTS = ("energy_joules", "completion_tokens", "latency_seconds")
# Fewer live answers of a task under a directive tell nothing.
LEAST_ANSWERS = 8
# In J, tokens or s: a cost that was too small to be read has no logarithm.
LEAST_COST = 1e-3


@dataclass(frozen=True)
class Drift:
    """Live against profile, for one task under one directive.

    Attributes:
        measure: one of `COSTS` or a quality.
        answers: live ones.
        change: live over profile (a ratio, of geometric means) for costs; live less profile
            for quality.
        low, high: 95% interval (Welch's).
    """

    task: str
    directive: str
    measure: str
    answers: int
    change: float
    low: float
    high: float

    @property
    def drifted(self) -> bool:
        """Whether the interval leaves out "no change"."""
        same = 1.0 if self.measure in COSTS else 0.0
        return not self.low <= same <= self.high


def drifts(
    prepared: Prepared,
    requests: Sequence[Request],
    actions: NDArray[np.int64],
    outcomes: Outcomes,
) -> list[Drift]:
    """Compare live answers with the profile, request by request as foretold.

    A policy answers the easy ones of a task briefly: their bare means would differ from the
    profile's without any drift. So both sides are compared less what the words of each
    request foretell (of the profile's own prompts, what other prompts' outcomes foretell).

    Args:
        requests, actions, outcomes: the live ones, n of each.
    """
    featurizer = prepared.featurizer
    live_parts = np.stack([featurizer.request(r.messages, r.task) for r in requests])
    tasks = np.array([request.task for request in requests])
    found = []
    for task in prepared.known.tasks:
        rows = prepared.known.rows_of(task)
        for action, directive in enumerate(prepared.known.directives):
            mine = (tasks == task) & (actions == action)
            if mine.sum() < LEAST_ANSWERS:
                continue
            for measure in (*COSTS, prepared.quality):
                then = getattr(prepared.known, measure)[rows, action]
                now = getattr(outcomes, measure)[mine]
                of_profile = _beyond(prepared, prepared.parts[1][rows], directive, measure, then)
                of_live = _beyond(prepared, live_parts[mine], directive, measure, now)
                change = _difference(of_live, of_profile)
                if change is None:
                    continue
                if measure in COSTS:
                    change = np.exp(change)
                values = (float(value) for value in change)
                found.append(Drift(task, directive, measure, int(mine.sum()), *values))
    return found


def _beyond(
    prepared: Prepared, parts: Array, directive: str, measure: str, values: Floats
) -> Floats:
    """What was measured less what is foretold: costs in logarithms, by the energy foretold."""
    names = prepared.featurizer.names
    if measure not in COSTS:
        return values - parts[:, names.index(f"quality={directive}")]
    logs = np.log(np.maximum(values, LEAST_COST))
    beyond: Floats = logs - parts[:, names.index(f"log_energy={directive}")]
    return beyond


def _difference(now: Floats, then: Floats) -> Floats | None:
    """Difference of means with its 95% interval, shape (3,); None where too little is known."""
    now, then = now[~np.isnan(now)], then[~np.isnan(then)]
    if min(len(now), len(then)) < LEAST_ANSWERS:
        return None
    difference = float(now.mean() - then.mean())
    if now.std() + then.std() < 1e-12:
        return np.full(3, difference)
    ends = ttest_ind(now, then, equal_var=False).confidence_interval(0.95)
    return np.array([difference, float(ends.low), float(ends.high)])
