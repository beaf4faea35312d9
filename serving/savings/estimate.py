"""Savings of the policy on live traffic, estimated from the random hold-out, with an interval.

The unit is the conversation. A short answer may make people ask again, so a conversation's later
turns count as the cost of its opening, in the arm that the opening drew.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from envs.arrays import Float64Array
from envs.carbon.footprint import per_functional_unit
from serving.ledger.database import Ledger
from serving.ledger.quality.tallies import Judging, QualityTallies
from serving.proportions import wilson
from serving.savings.hold_out import HoldOut, Term
from serving.savings.openings import COLUMNS, MEASURES, Openings, group_openings
from serving.savings.per_conversation import estimate_saving

# Openings of the last part of the period do not count, because their conversations may go on, s.
SETTLE_SECONDS = 3600.0
# Turns of the period's conversations are looked for this long before and after it, s.
LONGEST_SECONDS = 86400.0
# Fewest draws in each arm, and fewest draws of equal size that vary as much as all draws do.
MIN_DRAWS = 30
# Most task tags that get a column in the regression, and that are reported one by one.
MOST_TASKS = 16


def read_savings(
    ledger: Ledger, since: float, until: float, settle_seconds: float = SETTLE_SECONDS
) -> dict[str, Any]:
    """Return `estimate_savings` for a period of a ledger.

    Args:
        since, until: start and end of the period, Unix seconds.
        settle_seconds: conversations that opened within this time before now do not count, s.
    """
    rows = ledger.rows(COLUMNS, since - LONGEST_SECONDS, until + LONGEST_SECONDS)
    settled_before = min(until, time.time() - settle_seconds)
    savings = estimate_savings(rows, since, until, settled_before)
    judging = QualityTallies(ledger).judging(since, until)
    return {"since": since, "until": until, **savings, "evaluation": _netted(savings, judging)}


def _netted(savings: dict[str, Any], judging: Judging) -> dict[str, Any]:
    """Return what judging answers cost in the period, and the total savings less that.

    The total is that of the conversations that count, and the cost that of the whole period.
    """
    result: dict[str, Any] = judging._asdict()
    for measure, cost in (("grams", judging.grams), ("energy_joules", judging.joules)):
        saved = savings.get(measure)
        result[f"net_{measure}"] = None if saved is None else saved["total"] - cost
    return result


def estimate_savings(
    rows: Iterable[Sequence[Any]], since: float, until: float, settled_before: float
) -> dict[str, Any]:
    """Estimate the savings in each measure, in total and by task.

    Args:
        rows: ledger rows with `COLUMNS`, from `LONGEST_SECONDS` before the period to as long after
            its end.
        since, until: start and end of the period, Unix seconds.
        settled_before: later openings do not count, Unix seconds.

    Returns:
        JSON-ready: counts, the baseline, both arms, and for each of `MEASURES` a `Saving`, or None
        with a `reason`.
    """
    openings = group_openings(rows, since, until, settled_before)
    tasks, counts = np.unique(_task(openings), return_counts=True)
    frequent = tasks[np.argsort(-counts)][:MOST_TASKS]
    return {
        "baseline": "L0, by a random hold-out",
        "estimator": "AIPW per conversation, clustered by draw, 95% interval",
        "per": "conversation",
        "settled_before": settled_before,
        "unsettled_conversations": openings.unsettled,
        "later_turns_without_opening": openings.orphans,
        **_estimate(openings),
        "tasks": {
            str(task) or "untagged": _estimate(openings.at(_task(openings) == task))
            for task in frequent
        },
    }


def _estimate(openings: Openings) -> dict[str, Any]:
    """Return the counts, the arms and the savings of some openings."""
    measured = openings.at(openings.measured)
    held_out, size = measured.held_out, np.bincount(measured.draw)
    draws = [len(np.unique(measured.draw[arm])) for arm in (held_out, ~held_out)]
    effective = float(size.sum() ** 2 / (size**2).sum()) if len(size) else 0.0
    result: dict[str, Any] = {
        "conversations": len(held_out),
        "held_out_conversations": int(held_out.sum()),
        "draws": draws[1],
        "held_out_draws": draws[0],
        "effective_draws": effective,
        "keyed_by": _counts(measured.columns["keyed_by"]),
        "energy_methods": _counts(measured.turn_energy_methods),
        "intensity_kinds": _counts(measured.turn_intensity_kinds),
        "arms": {name: _arm(openings, arm) for name, arm in (("l0", True), ("policy", False))},
        **dict.fromkeys(MEASURES),
    }
    if min(draws) < MIN_DRAWS:
        result["reason"] = f"fewer than {MIN_DRAWS} draws held out, or as few not held out"
        return result
    if effective < MIN_DRAWS:
        share = size.max() / size.sum()
        result["reason"] = (
            f"{share:.0%} of the conversations share one draw, because their openings are the "
            f"same: {len(size)} draws count as {effective:.0f}; look at more days, or name users "
            "or conversations"
        )
        return result
    experiment = HoldOut(
        held_out,
        measured.columns["hold_out_ratio"].astype(np.float64),
        _covariates(measured),
        measured.draw,
    )
    turns = measured.turns.astype(np.float64)
    if not all(measured.costs[measure][held_out].any() for measure in MEASURES):
        result["reason"] = "the conversations that were held out cost nothing"
        return result
    for measure in MEASURES:
        result[measure] = asdict(estimate_saving(experiment, measured.costs[measure], turns))
    result["turns_per_conversation"] = _means(experiment, turns)
    result["follow_up_ratio"] = _means(experiment, (turns > 1).astype(np.float64))
    result |= _evidence(measured)
    if len(kinds := result["intensity_kinds"]) > 1:
        # Grams from different kinds of intensity must not be added.
        result["grams"] = None
        result["reason"] = (
            "different kinds of carbon intensity: "
            f"{', '.join(f'{kind} ({count} requests)' for kind, count in kinds.items())}"
        )
    else:
        result["sci"] = {
            arm: per_functional_unit(
                result["grams"][arm], 1, result["completion_tokens"][arm], None
            )
            for arm in ("l0", "policy")
        }
    return result


def _means(experiment: HoldOut, values: Float64Array) -> dict[str, Any]:
    """Return the mean of some values under each arm, with its 95% interval."""
    l0, policy = experiment.means(values)
    figures = {}
    for name, mean in (("l0", l0), ("policy", policy)):
        width = experiment.half_width(Term(1, mean))
        figures[name] = {"mean": mean.value, "ci95": (mean.value - width, mean.value + width)}
    return figures


def _covariates(openings: Openings) -> Float64Array:
    """Return the covariates of the openings, known before the draw, shape (n, k).

    The columns are ones, carbon intensity, log of the request's length, and frequent task tags.
    """
    length = np.log1p(openings.columns["characters"].astype(np.float64))
    intensity = openings.columns["intensity_g_per_kwh"].astype(np.float64)
    tags = _task(openings)
    tasks, counts = np.unique(tags, return_counts=True)
    # Callers choose the tags freely, so only the most frequent ones get a column.
    frequent = tasks[np.argsort(-counts)][:MOST_TASKS][: len(tasks) - 1]
    task_columns = ((tags == task).astype(float) for task in frequent)
    return np.column_stack([np.ones(len(intensity)), intensity, length, *task_columns])


def _arm(openings: Openings, held_out: bool) -> dict[str, Any]:
    """Return how one arm's requests ended, with the share not completed and its 95% interval.

    A failed or cut-off answer costs what it costs, so it counts in the savings. A conversation with
    a request whose cost is unknown cannot count; it is counted here.
    """
    arm = openings.held_out == held_out
    outcomes = _counts(openings.turn_outcomes[arm[openings.turn_openings]])
    requests = sum(outcomes.values())
    failed = requests - outcomes.get("completed", 0)
    return {
        "conversations": int(arm.sum()),
        "requests": requests,
        "unmeasured_conversations": int((arm & ~openings.measured).sum()),
        "outcomes": outcomes,
        "failure_ratio": failed / requests if requests else None,
        "failure_ratio_ci95": wilson(failed, requests),
    }


def _evidence(openings: Openings) -> dict[str, Any]:
    """Return how far the joules are evidence of their own, beside the tokens."""
    joules, tokens = openings.costs["energy_joules"], openings.costs["completion_tokens"]
    rates = np.unique(np.round(joules[tokens > 0] / tokens[tokens > 0], 6))
    known = np.isfinite(openings.energy_errors)
    known_joules = float(joules[known].sum())
    return {
        "joules_are_tokens_times_a_constant": len(rates) <= 2 and len(joules) >= MIN_DRAWS,
        # The same coefficients cause all errors, so errors do not cancel out between requests.
        "energy_error_ratio": float(openings.energy_errors[known].sum()) / known_joules
        if known_joules
        else None,
        "energy_error_known_ratio": known_joules / float(joules.sum()),
    }


def _task(openings: Openings) -> Any:
    return np.array([task or "" for task in openings.columns["task"]], dtype=str)


def _counts(values: Any) -> dict[str, int]:
    names, counts = np.unique([value or "unknown" for value in values], return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}
