"""Signs of quality that cost nothing: what people do after an answer, compared between the arms.

The lottery assigns whole conversations, so a conversation under the policy and one that is held out
differ in nothing but their answers. The unit is the draw: conversations that share one count once.
"""

import math
from collections import defaultdict
from typing import Any

from serving.ledger.database import Ledger
from serving.ledger.quality.signs import SIGNS, Judged, SignCounts, SignStore
from serving.ledger.quality.verdict import SERVED
from serving.proportions import Z95, Shares, anytime_difference

# Fewest answers with a verdict and a reaction that a correlation says anything about.
FEWEST = 20
_ALPHA = 0.05


def read_signs(ledger: Ledger, since: float, until: float) -> dict[str, Any]:
    """Return by task how often each sign occurs under the policy and held out, JSON-ready.

    Args:
        since, until: the period, Unix seconds. Conversations count by their turns in it.

    Returns:
        by task (empty: untagged), for each sign its share in each arm, and the `difference`, policy
        less held out, with an interval that holds at every look.
    """
    store = SignStore(ledger)
    return {
        "since": since,
        "until": until,
        "per": "draw of the lottery (conversation)",
        "baseline": "L0, by a random hold-out",
        "confidence": 1 - _ALPHA,
        "tasks": _by_task(store.counts(since, until)),
        "satisfaction": _satisfaction(store.judged(since, until)),
    }


def _by_task(counts: list[SignCounts]) -> dict[str, Any]:
    arms: dict[str, dict[bool, SignCounts]] = defaultdict(dict)
    for each in counts:
        arms[each.task][each.held_out] = each
    tasks = {}
    for task, of_task in sorted(arms.items()):
        policy, l0 = (of_task.get(arm, SignCounts.none(task, arm)) for arm in (False, True))
        tasks[task] = {
            "draws": policy.draws,
            "held_out_draws": l0.draws,
            "signs": {sign: _compared(policy, l0, sign) for sign in SIGNS},
        }
    return tasks


def _compared(policy: SignCounts, l0: SignCounts, sign: str) -> dict[str, Any]:
    """Return a sign's share in both arms, and their difference."""
    a, b = (Shares(arm.signs[sign], arm.draws) for arm in (policy, l0))
    shares = [each.successes / each.trials if each.trials else None for each in (a, b)]
    known = shares[0] is not None and shares[1] is not None
    return {
        "policy": shares[0],
        "l0": shares[1],
        "difference": (shares[0] or 0.0) - (shares[1] or 0.0) if known else None,
        # All signs of a task together hold with the confidence.
        "interval": anytime_difference(a, b, _ALPHA / len(SIGNS)),
    }


def _satisfaction(judged: list[Judged]) -> list[dict[str, Any]]:
    """Return how a judge's scores go with what people do after the same answers, by task."""
    pairs: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for each in judged:
        if each.arm != SERVED:
            continue
        for sign, value in each.reactions.items():
            pairs[each.judge, each.task, sign].append((each.credit, value))
    rows = []
    for (judge, task, sign), of_sign in sorted(pairs.items()):
        row = {"judge": judge, "task": task, "sign": sign, "answers": len(of_sign)}
        rows.append(row | _correlation(of_sign))
    return rows


def _correlation(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return Pearson's correlation with Fisher's interval (1921); None where there is none."""
    count = len(pairs)
    unknown = {"correlation": None, "interval": None}
    if count < FEWEST:
        return unknown
    means = [sum(column) / count for column in zip(*pairs, strict=True)]
    x, y = ([pair[i] - means[i] for pair in pairs] for i in range(2))
    squares = sum(a * a for a in x) * sum(b * b for b in y)
    if squares <= 0:
        return unknown
    r = sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(squares)
    z, width = math.atanh(max(-0.999999, min(0.999999, r))), Z95 / math.sqrt(count - 3)
    return {"correlation": r, "interval": [math.tanh(z - width), math.tanh(z + width)]}
