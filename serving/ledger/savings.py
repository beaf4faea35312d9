"""Savings of the policy on live traffic, estimated from the random hold-out, with an interval.

Augmented inverse-propensity weighting (Robins, Rotnitzky & Zhao, 1994): a regression, corrected
by each arm's residuals, weighted by their known propensities. The propensities keep the estimate
unbiased even if the regression is wrong; the regression only reduces the variance. All turns of a
conversation share one draw, so errors are summed by conversation before they are squared.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from envs.arrays import BoolArray, Float64Array
from envs.carbon.footprint import per_functional_unit

COLUMNS = (
    *("hold_out", "hold_out_ratio", "conversation", "task", "characters"),
    *("intensity_g_per_kwh", "grams", "energy_joules", "completion_tokens", "energy_method"),
    *("lottery", "mode", "outcome", "intensity_kind"),
)
MEASURES = ("grams", "energy_joules", "completion_tokens")
# Least number of conversations in each arm.
MIN_CONVERSATIONS = 30
# Most task tags that get a column in the regression.
_MOST_TASKS = 16


@dataclass(frozen=True)
class Saving:
    """Savings in one measure, in its unit (gCO2e, J or tokens).

    Attributes:
        l0: mean cost per request under L0.
        policy: mean cost per request under the policy.
        ratio: share of L0's cost that is saved.
        ci95: 95% interval of `ratio`.
        total: amount saved in all requests that were not held out.
        total_ci95: 95% interval of `total`.
    """

    l0: float
    policy: float
    ratio: float
    ci95: tuple[float, float]
    total: float
    total_ci95: tuple[float, float]


def estimate_savings(rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Estimate the savings in each measure.

    Args:
        rows: ledger rows with `COLUMNS`.

    Returns:
        JSON-ready: counts, the baseline, how each arm's requests ended, and for each of `MEASURES`
        a `Saving`, or None with a `reason` while there are too few conversations.
    """
    randomised = [row for row in rows if _is_randomised(_by_column(row))]
    eligible = [row for row in randomised if _is_measured(_by_column(row))]
    table = dict(zip(COLUMNS, zip(*eligible, strict=True), strict=True)) if eligible else {}
    held_out = np.array(table.get("hold_out", ()), dtype=bool)
    _, conversation = np.unique(np.array(table.get("conversation", ()), str), return_inverse=True)
    conversations = [len(np.unique(conversation[arm])) for arm in (held_out, ~held_out)]
    kinds = set(table.get("intensity_kind", ()))
    result: dict[str, Any] = {
        "baseline": "L0, by a random hold-out",
        "estimator": "AIPW, clustered by conversation, 95% interval",
        "requests": len(eligible),
        "held_out_requests": int(held_out.sum()),
        "conversations": conversations[1],
        "held_out_conversations": conversations[0],
        "energy_methods": sorted(set(table.get("energy_method", ()))),
        "intensity_kinds": sorted({str(kind or "unstated") for kind in kinds}),
        "arms": {
            name: arm_of(randomised, held) for name, held in (("l0", True), ("policy", False))
        },
    }
    if min(conversations) < MIN_CONVERSATIONS:
        result["reason"] = (
            f"fewer than {MIN_CONVERSATIONS} conversations held out, or as few not held out"
        )
        return result | dict.fromkeys(MEASURES)
    ratio = np.array(table["hold_out_ratio"], dtype=np.float64)
    design = covariates(table)
    for measure in MEASURES:
        cost = np.array(table[measure], dtype=np.float64)
        result[measure] = asdict(hold_out_saving(cost, held_out, ratio, design, conversation))
    if len(kinds) > 1:
        # Grams from different kinds of intensity must not be added.
        result["grams"] = None
        result["reason"] = (
            f"different kinds of carbon intensity: {', '.join(result['intensity_kinds'])}"
        )
    else:
        result["sci"] = {
            arm: per_functional_unit(
                result["grams"][arm], 1, result["completion_tokens"][arm], None
            )
            for arm in ("l0", "policy")
        }
    return result


def hold_out_saving(
    cost: Float64Array, held_out: BoolArray, ratio: Float64Array, design: Float64Array, group: Any
) -> Saving:
    """Estimate the savings in one measure.

    The regression is fitted in the larger arm, the one that was not held out. For the hold-out it
    is only shifted and scaled: two coefficients do not overfit even this small arm.

    Args:
        cost: cost of each request, shape (n,).
        held_out: whether each request was held out, shape (n,).
        ratio: probability of being held out, shape (n,).
        design: covariates known before the lottery, with a column of ones, shape (n, k).
        group: conversation of each request, numbered from 0, shape (n,).
    """
    # Suffix 0 is the hold-out (L0), suffix 1 is the policy.
    fit1 = design @ np.linalg.lstsq(design[~held_out], cost[~held_out], rcond=None)[0]
    scaled = np.column_stack([np.ones(len(cost)), fit1])
    fit0 = scaled @ np.linalg.lstsq(scaled[held_out], cost[held_out], rcond=None)[0]
    correction0 = np.where(held_out, (cost - fit0) / ratio, 0.0)
    correction1 = np.where(~held_out, (cost - fit1) / (1 - ratio), 0.0)
    l0, policy = float((fit0 + correction0).mean()), float((fit1 + correction1).mean())
    cost_ratio = policy / l0
    # Least squares makes residuals too small; corrected as in HC1.
    count0 = len(np.unique(group[held_out]))
    correction0 *= np.sqrt(count0 / (count0 - 2))
    influence0, influence1 = fit0 + correction0 - l0, fit1 + correction1 - policy
    ratio_width = cost_ratio * _half_width(influence1 / policy - influence0 / l0, group)
    steered = int((~held_out).sum())
    width = _half_width(influence0 - influence1, group)
    return Saving(
        l0,
        policy,
        1 - cost_ratio,
        (1 - cost_ratio - ratio_width, 1 - cost_ratio + ratio_width),
        steered * (l0 - policy),
        (steered * (l0 - policy - width), steered * (l0 - policy + width)),
    )


def covariates(table: Mapping[str, Sequence[Any]]) -> Float64Array:
    """Return the covariates known before the lottery, shape (n, k).

    The columns are ones, carbon intensity, log of the request's length, and frequent task tags.
    """
    length = np.log1p(np.array(table["characters"], dtype=np.float64))
    intensity = np.array(table["intensity_g_per_kwh"], dtype=np.float64)
    tags = np.array([task or "" for task in table["task"]])
    tasks, counts = np.unique(tags, return_counts=True)
    # Callers choose the tags freely, so only the most frequent ones get a column.
    frequent = tasks[np.argsort(-counts)][:_MOST_TASKS][: len(tasks) - 1]
    task_columns = ((tags == task).astype(float) for task in frequent)
    columns = [np.ones(len(intensity)), intensity, length, *task_columns]
    return np.column_stack(columns)


def arm_of(rows: Sequence[Sequence[Any]], held_out: bool) -> dict[str, Any]:
    """Return how one arm's requests ended, with the share not completed and its 95% interval.

    A failed or cut-off answer costs what it costs, so it counts in the savings. A request without
    a measured cost cannot count; it is counted here.
    """
    arm = [row for row in map(_by_column, rows) if bool(row["hold_out"]) == held_out]
    outcomes = Counter(str(row["outcome"]) for row in arm)
    failed = len(arm) - outcomes["completed"]
    return {
        "requests": len(arm),
        "unmeasured_requests": sum(not _is_measured(row) for row in arm),
        "outcomes": dict(outcomes),
        "failure_ratio": failed / len(arm) if arm else None,
        "failure_ratio_ci95": _wilson(failed, len(arm)),
    }


def _by_column(row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(COLUMNS, row, strict=True))


def _is_randomised(row: dict[str, Any]) -> bool:
    """Return whether the request was randomised and its end is known."""
    return bool(
        row["lottery"]
        and row["mode"] in ("on", "canary")
        and row["outcome"] != "decided"
        and 0 < row["hold_out_ratio"] < 1
    )


def _is_measured(row: dict[str, Any]) -> bool:
    return all(row[measure] is not None for measure in MEASURES)


def _wilson(successes: int, count: int) -> tuple[float, float] | None:
    """Return the 95% interval of a proportion (Wilson, 1927); None for no observations."""
    if not count:
        return None
    z = NormalDist().inv_cdf(0.975)
    p, spread = successes / count, z * z / count
    centre, scale = p + spread / 2, 1 + spread
    width = z * np.sqrt(p * (1 - p) / count + spread / (4 * count))
    return max(0.0, float((centre - width) / scale)), min(1.0, float((centre + width) / scale))


def _half_width(influence: Float64Array, group: Any) -> float:
    """Return half the width of the mean's 95% interval; only the groups are independent.

    Student's t with the degrees of freedom that the fourth moment of the groups' sums implies:
    they are few if a few conversations cause most of the variance.
    """
    sums = np.bincount(group, influence)
    squares = float((sums**2).sum())
    if squares == 0:
        return 0.0
    count = len(sums)
    freedom = max(3.0, squares**2 / float((sums**4).sum()))
    error = np.sqrt(squares * count / (count - 1)) / len(influence)
    return _student(freedom) * float(error)


def _student(freedom: float) -> float:
    """Return the 97.5% quantile of Student's t, accurate to 1% from 3 degrees of freedom on.

    Cornish-Fisher expansion (Abramowitz & Stegun 26.7.5).
    """
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
