"""Foretells what a policy would save and lose on the traffic that mode "shadow" has seen.

Mode "shadow" answers every request under L0, so the costs under a directive are foretold: the
request's own cost, times the ratio of costs that the policy's choices had in training, by task and
directive. The quality is that of training. Follow-up questions cannot be foretold.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from envs.arrays import Float64Array
from serving.ledger.database import Ledger
from serving.ledger.record import CHOSEN
from serving.proportions import Z95
from serving.savings.estimate import MIN_DRAWS, MOST_TASKS

COLUMNS = (
    *("time", "conversation", "opening", "mode", "reason", "outcome", "hold_out", "task"),
    *("directive", "policy_version", "grams"),
)
# Half the width of the saving's interval that the plan aims at.
PLANNED_WIDTH = 0.05
# Fewest requests in training behind a foretold figure, as a sum of probabilities.
_FEWEST = 5.0
UNTAGGED = ""
_DAY_SECONDS = 86400.0


class _Foretold(NamedTuple):
    """The figures foretold for a request that the policy answers with a directive.

    Attributes:
        ratio, ratio_error: cost relative to that under L0, and its standard error.
        quality, quality_l0: mean quality of such requests in training; None if unknown.
        quality_error: standard error of their ratio.
    """

    ratio: float
    ratio_error: float
    quality: float | None
    quality_l0: float
    quality_error: float


class _Shadowed(NamedTuple):
    """One request, and what it cost under L0."""

    time: float
    draw: str
    opening: bool
    directive: str
    grams: float | None
    foretold: _Foretold | None


def read_shadow(ledger: Ledger, since: float, until: float) -> dict[str, Any]:
    """Return `foretell_shadow` for a period of a ledger.

    Args:
        since, until: start and end of the period, Unix seconds.
    """
    control = ledger.control()
    shadow = foretell_shadow(
        ledger.rows(COLUMNS, since, until),
        ledger.policies(),
        until,
        control.hold_out_ratio,
        control.canary_ratio,
    )
    return {"since": since, **shadow}


def foretell_shadow(
    rows: Iterable[Sequence[Any]],
    policies: Mapping[str, Mapping[str, Any]],
    until: float,
    hold_out_ratio: float,
    canary_ratio: float,
) -> dict[str, Any]:
    """Foretell saving and quality of mode "on", in total and by task.

    Conversations that would be held out are left out; they are a random share.

    Args:
        rows: ledger rows with `COLUMNS`, oldest first.
        policies: manifests by version.
        until: end of the period, Unix seconds.
        hold_out_ratio: share of conversations that are to be held out.
        canary_ratio: share of conversations that mode canary would steer.
    """
    by_task: defaultdict[str, list[_Shadowed]] = defaultdict(list)
    floors: dict[str, float] = {}
    left_alone: Counter[str] = Counter()
    first: float | None = None
    openings = 0
    for row in rows:
        record = dict(zip(COLUMNS, row, strict=True))
        if record["mode"] != "shadow" or record["outcome"] == "decided":
            continue
        if record["reason"] not in CHOSEN:
            left_alone[record["reason"]] += 1
            continue
        first = record["time"] if first is None else first
        openings += bool(record["opening"])
        if record["hold_out"]:
            continue
        manifest = policies.get(record["policy_version"] or "", {})
        by_task[record["task"] or UNTAGGED].append(_shadowed(record, manifest))
        for task, floor in (manifest.get("floors") or {}).items():
            # Of several policies, the highest.
            floors[task] = max(floor, floors.get(task, floor))
    requests = [request for group in by_task.values() for request in group]
    tasks = sorted(by_task, key=lambda task: -len(by_task[task]))[:MOST_TASKS]
    total = _figures(requests)
    days = 0.0 if first is None else (until - first) / _DAY_SECONDS
    return {
        "until": until,
        "baseline": "L0, as mode shadow answers",
        "per": "request",
        "method": "foretold from the policy's training, by task and directive",
        "left_alone": dict(left_alone.most_common()),
        **total,
        "plan": _plan(requests, total, openings / days if days else 0.0, hold_out_ratio)
        | {"canary_ratio": canary_ratio},
        "tasks": {
            task or "untagged": {**_figures(by_task[task]), "floor": floors.get(task)}
            for task in tasks
        },
    }


def _shadowed(record: Mapping[str, Any], manifest: Mapping[str, Any]) -> _Shadowed:
    return _Shadowed(
        record["time"],
        record["conversation"] or "",
        bool(record["opening"]),
        record["directive"],
        record["grams"],
        _foretold(record, manifest),
    )


def _foretold(record: Mapping[str, Any], manifest: Mapping[str, Any]) -> _Foretold | None:
    """Return what training foretells of a request; None if it does not."""
    chosen = (manifest.get("foretold") or {}).get("chosen") or {}
    task = record["task"] if record["task"] in chosen else UNTAGGED
    if record["directive"] == "none":
        # The request stays as it is; only its weight among the qualities is to be known.
        l0 = manifest.get("quality_l0") or {}
        weights = [l0[task]] if task in l0 else list(l0.values())
        quality = sum(weights) / len(weights) if weights else None
        return _Foretold(1.0, 0.0, quality, quality or 0.0, 0.0)
    cell = chosen.get(task, {}).get(record["directive"]) or {}
    # A rule chooses other requests than the policy does, so its figures do not hold for them.
    known = cell.get("weight", 0.0) >= _FEWEST and record["reason"] != "rule"
    if not known or cell["joules_ratio_error"] is None:
        return None
    judged = cell["quality_ratio_error"] is not None
    return _Foretold(
        cell["joules"] / cell["joules_l0"],
        cell["joules_ratio_error"],
        cell["quality"] if judged else None,
        cell["quality_l0"] or 0.0,
        cell["quality_ratio_error"] or 0.0,
    )


def _figures(requests: Sequence[_Shadowed]) -> dict[str, Any]:
    shares = Counter(request.directive for request in requests)
    count = len(requests)
    costed = [(r.draw, r.grams, r.foretold) for r in requests if r.grams and r.foretold]
    return {
        "requests": count,
        "conversations": sum(request.opening for request in requests),
        "draws": len({request.draw for request in requests}),
        "directives": {name: number / count for name, number in shares.most_common()},
        "foretold_ratio": len(costed) / count if count else 0.0,
        **_saving(costed),
        **_quality([r.foretold for r in requests if r.foretold]),
    }


def _saving(costed: Sequence[tuple[str, float, _Foretold]]) -> dict[str, Any]:
    """Return the foretold saving; its interval is that of the traffic and of the training."""
    if not costed:
        return {"saving": None, "saving_ci95": None}
    l0, on = _costs_by_draw(costed)
    total = float(l0.sum())
    ratio = float(on.sum()) / total
    # Delta method, clustered by draw. The requests of one cell share its error.
    variance = float(((on - ratio * l0) ** 2).sum()) / total**2
    by_cell: Counter[_Foretold] = Counter()
    for _, grams, foretold in costed:
        by_cell[foretold] += grams / total  # type: ignore[assignment]
    variance += sum((share * cell.ratio_error) ** 2 for cell, share in by_cell.items())
    width = Z95 * math.sqrt(variance)
    interval = (1 - ratio - width, 1 - ratio + width) if len(l0) >= MIN_DRAWS else None
    return {"saving": 1 - ratio, "saving_ci95": interval}


def _quality(foretold: Sequence[_Foretold]) -> dict[str, Any]:
    """Return the foretold quality relative to L0; its interval is that of the training."""
    cells = Counter(cell for cell in foretold if cell.quality is not None)
    l0 = sum(count * cell.quality_l0 for cell, count in cells.items())
    if not l0:
        return {"quality": None, "quality_ci95": None}
    ratio = sum(count * (cell.quality or 0.0) for cell, count in cells.items()) / l0
    variance = sum(
        (n * cell.quality_l0 * cell.quality_error / l0) ** 2 for cell, n in cells.items()
    )
    width = Z95 * math.sqrt(variance)
    return {"quality": ratio, "quality_ci95": (ratio - width, ratio + width)}


def _costs_by_draw(
    costed: Sequence[tuple[str, float, _Foretold]],
) -> tuple[Float64Array, Float64Array]:
    """Return the costs under L0 and under the foretold directives, summed by draw."""
    names, number = np.unique([draw for draw, _, _ in costed], return_inverse=True)
    l0 = np.array([grams for _, grams, _ in costed], dtype=np.float64)
    on = np.array([grams * foretold.ratio for _, grams, foretold in costed], dtype=np.float64)
    return (
        np.bincount(number, l0, len(names)).astype(np.float64),
        np.bincount(number, on, len(names)).astype(np.float64),
    )


def _plan(
    requests: Sequence[_Shadowed],
    total: Mapping[str, Any],
    conversations_per_day: float,
    hold_out_ratio: float,
) -> dict[str, Any]:
    """Return how long the saving must be measured in mode on; None where that is not known.

    Both arms' means are taken to vary as much as the costs seen here; covariates narrow the real
    interval.
    """
    plan: dict[str, Any] = {
        "hold_out_ratio": hold_out_ratio,
        "half_width": PLANNED_WIDTH,
        "conversations_per_day": conversations_per_day,
        "conversations": None,
        "days": None,
    }
    costed = [(r.draw, r.grams, r.foretold) for r in requests if r.grams and r.foretold]
    if len({draw for draw, _, _ in costed}) < MIN_DRAWS or not 0 < hold_out_ratio < 1:
        return plan
    l0, _ = _costs_by_draw(costed)
    variation = float(l0.std(ddof=1) / l0.mean())
    among = hold_out_ratio * (1 - hold_out_ratio)
    needed = (Z95 * variation * (1 - total["saving"]) / PLANNED_WIDTH) ** 2 / among
    draws = max(needed, MIN_DRAWS / min(hold_out_ratio, 1 - hold_out_ratio))
    conversations = draws * max(1, total["conversations"]) / total["draws"]
    plan["conversations"] = math.ceil(conversations)
    if conversations_per_day:
        plan["days"] = conversations / conversations_per_day
    return plan
