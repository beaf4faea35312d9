"""Drift: the difference between a live server and the profile that a policy was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_ind

from agents.training.prepared import Prepared
from envs.arrays import Float32Array, Float64Array, Int64Array, StrArray
from envs.outcomes.outcome import Outcomes
from envs.requests.request import Request

COSTS = ("energy_joules", "completion_tokens", "latency_seconds")
# Fewer live answers per task and directive give no meaningful estimate.
LEAST_ANSWERS = 8
# Lower bound on costs before taking logarithms (J, tokens or s): a cost can be measured as 0.
LEAST_COST = 1e-3
# Smaller changes are irrelevant in practice, however significant they are.
LEAST_CHANGE = 0.01


@dataclass(frozen=True)
class Drift:
    """Live answers compared with the profile, for one measure, task and directive.

    Attributes:
        task, directive: names.
        measure: one of `COSTS` or the name of a quality.
        answers: number of distinct live prompts.
        change: for a cost, the ratio of geometric means, live over profile; for quality, the
            difference of means, live minus profile.
        low, high: 95% interval of the change (Welch's for costs, Student's for quality).
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
        """True if the change is large enough to matter and its interval excludes "no change"."""
        unchanged = 1.0 if self.measure in COSTS else 0.0
        large = abs(self.change - unchanged) >= LEAST_CHANGE
        return large and not self.low <= unchanged <= self.high


def measure_drift(
    prepared: Prepared,
    requests: Sequence[Request],
    actions: Int64Array,
    outcomes: Outcomes,
) -> list[Drift]:
    """Compare live answers with the profile, adjusted for the predicted outcome of each request.

    A policy answers the easy requests of a task briefly, so plain means would differ from the
    profile's without any drift. Therefore a line is fitted to the profile: the measured outcome
    of each prompt against the outcome that is predicted from its words (cross-fitted, from other
    prompts' outcomes). Live answers and profile are compared after subtracting that line. A
    prompt that was sent several times counts once, with its mean.

    Args:
        prepared: the training profile and its features.
        requests: the n live requests.
        actions: index of each request's directive, shape (n,).
        outcomes: measured live outcomes, arrays of shape (n,).
    """
    featurizer = prepared.featurizer
    live_parts = prepared.parts_of(requests)[1]
    tasks = np.array([request.task for request in requests])
    prompts = np.array([request.prompt_hash for request in requests])
    results = []
    for task in prepared.known.tasks:
        profile_rows = prepared.known.rows_of(task)
        for action, directive in enumerate(prepared.known.directives):
            live_rows = (tasks == task) & (actions == action)
            for measure in (*COSTS, prepared.quality):
                column = featurizer.names.index(_predictor(measure, directive))
                recorded = _scaled(
                    measure, getattr(prepared.known.outcomes, measure)[profile_rows, action]
                )
                live = _scaled(measure, getattr(outcomes, measure)[live_rows])
                change = _change(
                    (prepared.parts[1][profile_rows, column], recorded),
                    _by_prompt(prompts[live_rows], live_parts[live_rows, column], live),
                    equal_variances=measure not in COSTS,
                )
                if change is not None:
                    if measure in COSTS:
                        change = np.exp(change)
                    count = len(set(prompts[live_rows]))
                    results.append(Drift(task, directive, measure, count, *map(float, change)))
    return results


def _predictor(measure: str, directive: str) -> str:
    """Name of the feature that predicts a measure best: for any cost, the predicted energy."""
    return f"log_energy={directive}" if measure in COSTS else f"quality={directive}"


def _scaled(measure: str, values: Float64Array) -> Float64Array:
    scaled: Float64Array = np.log(np.maximum(values, LEAST_COST)) if measure in COSTS else values
    return scaled


def _by_prompt(
    prompts: StrArray, predicted: Float32Array, values: Float64Array
) -> tuple[Float32Array, Float64Array]:
    """Return predictions and mean measured values by distinct prompt, without unknown values.

    Repeated answers are not independent: a deterministic server gives a prompt the same answer.
    """
    known = ~np.isnan(values)
    _, first, prompt_index = np.unique(prompts[known], return_index=True, return_inverse=True)
    counts = np.bincount(prompt_index)
    means: Float64Array = (
        np.bincount(prompt_index, values[known]) / counts if len(counts) else values[known]
    )
    return predicted[known][first], means


def _change(
    recorded: tuple[Float32Array, Float64Array],
    live: tuple[Float32Array, Float64Array],
    *,
    equal_variances: bool,
) -> Float64Array | None:
    """Return the difference of mean residuals and its 95% interval, shape (3,).

    Residuals are taken from the line fitted to `recorded`. None if there are fewer than
    `LEAST_ANSWERS` values on either side.

    Args:
        recorded, live: pairs of predicted and measured values, from the profile and live.
        equal_variances: pool the variances of both sides. Needed for quality: thirty verdicts
            that are all correct have no variance of their own, but are still only thirty.
    """
    known = ~np.isnan(recorded[1])
    predicted, measured = recorded[0][known].astype(np.float64), recorded[1][known]
    if min(len(measured), len(live[1])) < LEAST_ANSWERS:
        return None
    centred = predicted - predicted.mean()
    spread = float(centred @ centred)
    slope = float(centred @ measured) / spread if spread > 1e-9 else 0.0
    recorded_residuals = measured - slope * predicted
    live_residuals = live[1] - slope * live[0]
    difference = float(live_residuals.mean() - recorded_residuals.mean())
    if live_residuals.std() + recorded_residuals.std() < 1e-9:
        return np.full(3, difference)
    test = ttest_ind(live_residuals, recorded_residuals, equal_var=equal_variances)
    interval = test.confidence_interval(0.95)
    return np.array([difference, float(interval.low), float(interval.high)])
