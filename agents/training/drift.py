"""How far a live server has moved from the profile that a policy was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_ind

from agents.training.prepared import Prepared
from envs.arrays import Float32Array, Float64Array, Int64Array, StrArray
from envs.outcomes.outcome import Outcomes
from envs.requests.request import Request

COSTS = ("energy_joules", "completion_tokens", "latency_seconds")
# Fewer live answers of a task under a directive tell nothing.
LEAST_ANSWERS = 8
# In J, tokens or s: a cost that was too small to be read has no logarithm.
LEAST_COST = 1e-3
# What changed by less matters to nobody, however surely it did.
LEAST_CHANGE = 0.01


@dataclass(frozen=True)
class Drift:
    """Live against profile, for one task under one directive.

    Attributes:
        measure: one of `COSTS` or a quality.
        answers: live ones, each prompt counted once.
        change: live over profile (a ratio, of geometric means) for costs; live less profile
            for quality.
        low, high: 95% interval (Welch's for costs, Student's for quality).
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
        """Whether the interval leaves out "no change", and the change is worth a word."""
        same = 1.0 if self.measure in COSTS else 0.0
        return abs(self.change - same) >= LEAST_CHANGE and not self.low <= same <= self.high


def drifts(
    prepared: Prepared,
    requests: Sequence[Request],
    actions: Int64Array,
    outcomes: Outcomes,
) -> list[Drift]:
    """Compare live answers with the profile, request by request as foretold.

    A policy answers the easy ones of a task briefly: their bare means would differ from the
    profile's without any drift. So a line is fitted to what the profile measured of each
    prompt on what its words foretell (as other prompts' outcomes tell it), and both sides are
    compared less that line. A prompt that was asked again counts once, with its mean.

    Args:
        requests, actions, outcomes: the live ones, n of each.
    """
    featurizer = prepared.featurizer
    live_parts = prepared.parts_of(requests)[1]
    tasks = np.array([request.task for request in requests])
    prompts = np.array([request.prompt_hash for request in requests])
    found = []
    for task in prepared.known.tasks:
        rows = prepared.known.rows_of(task)
        for action, directive in enumerate(prepared.known.directives):
            mine = (tasks == task) & (actions == action)
            for measure in (*COSTS, prepared.quality):
                column = featurizer.names.index(_foretold_by(measure, directive))
                then = _scaled(measure, getattr(prepared.known.outcomes, measure)[rows, action])
                now = _scaled(measure, getattr(outcomes, measure)[mine])
                change = _change(
                    (prepared.parts[1][rows, column], then),
                    _by_prompt(prompts[mine], live_parts[mine, column], now),
                    alike=measure not in COSTS,
                )
                if change is not None:
                    if measure in COSTS:
                        change = np.exp(change)
                    count = len(set(prompts[mine]))
                    found.append(Drift(task, directive, measure, count, *map(float, change)))
    return found


def _foretold_by(measure: str, directive: str) -> str:
    """The feature that says most of a measure: of any cost, the energy foretold."""
    return f"log_energy={directive}" if measure in COSTS else f"quality={directive}"


def _scaled(measure: str, values: Float64Array) -> Float64Array:
    scaled: Float64Array = np.log(np.maximum(values, LEAST_COST)) if measure in COSTS else values
    return scaled


def _by_prompt(
    prompts: StrArray, foretold: Float32Array, values: Float64Array
) -> tuple[Float32Array, Float64Array]:
    """Means by prompt; a server without chance answers the same prompt alike."""
    known = ~np.isnan(values)
    _, first, place = np.unique(prompts[known], return_index=True, return_inverse=True)
    counts = np.bincount(place)
    means: Float64Array = (
        np.bincount(place, values[known]) / counts if len(counts) else values[known]
    )
    return foretold[known][first], means


def _change(
    then: tuple[Float32Array, Float64Array], now: tuple[Float32Array, Float64Array], *, alike: bool
) -> Float64Array | None:
    """Difference of means beyond the line of `then`, with its 95% interval, shape (3,).

    None where too little is known. Each side is what is foretold, and what was measured.

    Args:
        alike: one spread for both sides: thirty verdicts that are all right have none of
            their own, and still are thirty verdicts only.
    """
    known = ~np.isnan(then[1])
    foretold, measured = then[0][known].astype(np.float64), then[1][known]
    if min(len(measured), len(now[1])) < LEAST_ANSWERS:
        return None
    around = foretold - foretold.mean()
    spread = float(around @ around)
    slope = float(around @ measured) / spread if spread > 1e-9 else 0.0
    left = measured - slope * foretold
    live = now[1] - slope * now[0]
    difference = float(live.mean() - left.mean())
    if live.std() + left.std() < 1e-9:
        return np.full(3, difference)
    ends = ttest_ind(live, left, equal_var=alike).confidence_interval(0.95)
    return np.array([difference, float(ends.low), float(ends.high)])
