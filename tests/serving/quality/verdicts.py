"""Verdicts for tests."""

import itertools

from serving.ledger.quality.verdict import SERVED, TIE, Verdict
from serving.ledger.record import new_id

_numbers = itertools.count()


def verdict(**changed):
    number = next(_numbers)
    decision = new_id()
    fields = {
        "verdict_id": f"{decision}-{number}",
        "decision_id": decision,
        "decided": float(number + 1),
        "time": float(number + 1),
        "model": "made",
        "task": "arithmetic",
        "zone": "SYNTHETIC",
        "policy_version": "v1",
        "arm": SERVED,
        "directive": "brief",
        "floor": 0.9,
        "probability": 1.0,
        "judge": "llm:judge",
        "rubric": "r1",
        "result": TIE,
        "quality": 1.0,
        "l0_quality": 1.0,
    }
    return Verdict(**(fields | changed))
