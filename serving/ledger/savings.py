"""What the policy saves on live traffic, from the random hold-out, with an interval.

Augmented inverse-propensity weighting (Robins, Rotnitzky & Zhao, 1994): a regression,
corrected by each arm's residuals at their known chances. Whatever the regression misses, the
lottery's chances keep the estimate right; it only makes it more precise. Turns of one
conversation share a lottery, so errors are summed by conversation before they are squared.
"""

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
# Fewer conversations held out, or not, say nothing yet.
LEAST_CONVERSATIONS = 30
_MOST_TASKS = 16


@dataclass(frozen=True)
class Saving:
    """Of one measure, a request: what L0 and the policy cost, and what is saved.

    Attributes:
        ratio: saved share of L0's cost; `ci95` is its interval.
        total: saved in all the requests that were not held out.
    """

    l0: float
    policy: float
    ratio: float
    ci95: tuple[float, float]
    total: float
    total_ci95: tuple[float, float]


def estimate_savings(rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Savings by measure, of ledger rows with `COLUMNS`.

    Returns:
        JSON-ready: counts, the baseline, and for each of `MEASURES` a `Saving`, or None with
        a `reason` while too few conversations have been seen.
    """
    kept = [row for row in rows if _counts(dict(zip(COLUMNS, row, strict=True)))]
    table = dict(zip(COLUMNS, zip(*kept, strict=True), strict=True)) if kept else {}
    held = np.array(table.get("hold_out", ()), dtype=bool)
    _, conversation = np.unique(np.array(table.get("conversation", ()), str), return_inverse=True)
    groups = [len(np.unique(conversation[arm])) for arm in (held, ~held)]
    kinds = set(table.get("intensity_kind", ()))
    result: dict[str, Any] = {
        "baseline": "L0, by a random hold-out",
        "estimator": "AIPW, clustered by conversation, 95% interval",
        "requests": len(kept),
        "held_out_requests": int(held.sum()),
        "conversations": groups[1],
        "held_out_conversations": groups[0],
        "energy_methods": sorted(set(table.get("energy_method", ()))),
        "intensity_kinds": sorted({str(kind or "unstated") for kind in kinds}),
    }
    if min(groups) < LEAST_CONVERSATIONS:
        result["reason"] = f"fewer than {LEAST_CONVERSATIONS} conversations held out, or not"
        return result | dict.fromkeys(MEASURES)
    ratio = np.array(table["hold_out_ratio"], dtype=np.float64)
    seen = covariates(table)
    for measure in MEASURES:
        cost = np.array(table[measure], dtype=np.float64)
        result[measure] = asdict(hold_out_saving(cost, held, ratio, seen, conversation))
    if len(kinds) > 1:
        # Grams of unlike intensities have no sum.
        result["grams"] = None
        result["reason"] = f"intensities of unlike kinds: {', '.join(result['intensity_kinds'])}"
    else:
        result["sci"] = {
            arm: per_functional_unit(
                result["grams"][arm], 1, result["completion_tokens"][arm], None
            )
            for arm in ("l0", "policy")
        }
    return result


def hold_out_saving(
    cost: Float64Array, held: BoolArray, ratio: Float64Array, seen: Float64Array, group: Any
) -> Saving:
    """The estimate itself.

    The regression is fitted where there is most to fit it to, in the arm that was not held
    out, and only shifted and scaled to the other: two coefficients cannot overfit even that.

    Args:
        cost, held, ratio: shape (n,): cost, whether held out, with which chance.
        seen: shape (n, k): what was known before the lottery, with a column of ones.
        group: shape (n,): conversations, numbered from 0.
    """
    fit1 = seen @ np.linalg.lstsq(seen[~held], cost[~held], rcond=None)[0]
    scaled = np.column_stack([np.ones(len(cost)), fit1])
    fit0 = scaled @ np.linalg.lstsq(scaled[held], cost[held], rcond=None)[0]
    off0 = np.where(held, (cost - fit0) / ratio, 0.0)
    off1 = np.where(~held, (cost - fit1) / (1 - ratio), 0.0)
    l0, policy = float((fit0 + off0).mean()), float((fit1 + off1).mean())
    rest = policy / l0
    # Least squares makes residuals too small; mended as HC1 does.
    few = len(np.unique(group[held]))
    off0 *= np.sqrt(few / (few - 2))
    pull0, pull1 = fit0 + off0 - l0, fit1 + off1 - policy
    width = rest * _half_width(pull1 / policy - pull0 / l0, group)
    count = int((~held).sum())
    spread = _half_width(pull0 - pull1, group)
    return Saving(
        l0,
        policy,
        1 - rest,
        (1 - rest - width, 1 - rest + width),
        count * (l0 - policy),
        (count * (l0 - policy - spread), count * (l0 - policy + spread)),
    )


def covariates(table: Mapping[str, Sequence[Any]]) -> Float64Array:
    """What was known before the lottery: ones, the grid, the request's length, its task."""
    length = np.log1p(np.array(table["characters"], dtype=np.float64))
    grid = np.array(table["intensity_g_per_kwh"], dtype=np.float64)
    named = np.array([task or "" for task in table["task"]])
    tasks, counts = np.unique(named, return_counts=True)
    # Tags are callers' own words: the frequent ones are enough.
    frequent = tasks[np.argsort(-counts)][:_MOST_TASKS][: len(tasks) - 1]
    columns = [np.ones(len(grid)), grid, length, *((named == t).astype(float) for t in frequent)]
    return np.column_stack(columns)


def _counts(row: dict[str, Any]) -> bool:
    return bool(
        row["lottery"]
        and row["mode"] in ("on", "canary")
        and row["outcome"] == "completed"
        and 0 < row["hold_out_ratio"] < 1
        and all(row[measure] is not None for measure in MEASURES)
    )


def _half_width(pull: Float64Array, group: Any) -> float:
    """Half the 95% interval of a mean of pulls that are independent only between groups.

    Student's t with as many degrees of freedom as the pulls' fourth moment leaves: where a
    few conversations make most of the spread, there are few.
    """
    sums = np.bincount(group, pull)
    squares = float((sums**2).sum())
    if squares == 0:
        return 0.0
    count = len(sums)
    freedom = max(3.0, squares**2 / float((sums**4).sum()))
    error = np.sqrt(squares * count / (count - 1)) / len(pull)
    return _student(freedom) * float(error)


def _student(freedom: float) -> float:
    """The 97.5% quantile of t, to 1% from 3 degrees of freedom on.

    Cornish-Fisher (Abramowitz & Stegun 26.7.5).
    """
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
