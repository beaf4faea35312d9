"""What is known of the quality of each task's answers: intervals, the guard's state, the cost."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from serving.ledger.database import Ledger
from serving.ledger.quality.store import QualityStore
from serving.ledger.quality.verdict import CONTROL, SERVED, Verdict
from serving.quality.guard import Cell, CellState
from serving.quality.sequence import RatioSequence

# The interval is looked at after so many verdicts.
_CHUNK = 50
CONFIDENCE = 0.95


def read_quality(ledger: Ledger, since: float, until: float) -> dict[str, Any]:
    """Return the quality by cell, JSON-ready.

    Args:
        since, until: the decisions' period, Unix seconds.

    Returns:
        `cells`, each with the guard's `level`, and with `served` and `candidate`: the quality of
        these answers relative to L0's, `ratio`, and its `interval`, which holds at every look
        (Waudby-Smith and Ramdas, 2024), by the verdicts that the guard heeds since its state or the
        policy changed last. `evaluation` is what it cost in the period.
    """
    store = QualityStore(ledger)
    states = {
        Cell(*json.loads(key)): CellState.model_validate_json(state)
        for key, state in store.cells().items()
    }
    verdicts: dict[Cell, list[Verdict]] = defaultdict(list)
    for verdict in store.verdicts(since, until):
        verdicts[Cell(verdict.model, verdict.task, verdict.zone)].append(verdict)
    every = [verdict for of_cell in verdicts.values() for verdict in of_cell]
    return {
        "since": since,
        "until": until,
        "confidence": CONFIDENCE,
        "per": "request, weighted by the inverse of its probability to be sampled",
        "baseline": "L0's answer to the same request",
        "cells": [
            {**cell._asdict(), **_cell(verdicts[cell], states.get(cell, CellState()))}
            for cell in sorted(states.keys() | verdicts.keys())
        ],
        "judges": _judges(every),
        "evaluation": _evaluation(store, every, since, until),
    }


def _cell(verdicts: list[Verdict], state: CellState) -> dict[str, Any]:
    current = [
        v
        for v in verdicts
        if v.heeded and v.decided > state.since and v.policy_version == state.version
    ]
    floors = Counter(v.floor for v in current if v.floor is not None)
    return {
        "level": state.level,
        "raised_floor": state.floor,
        "floor": floors.most_common(1)[0][0] if floors else None,
        "changed": state.since or None,
        "policy_version": state.version or None,
        **{arm: _quality(v for v in current if v.arm == arm) for arm in (SERVED, "candidate")},
    }


def _quality(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Return the ratio of some verdicts, its interval, and the number of each result."""
    sequence, results, chunk = RatioSequence(1 - CONFIDENCE), Counter[str](), Counter[Any]()
    requests = 0.0
    for verdict in verdicts:
        results[verdict.result] += 1
        if verdict.quality is None or verdict.l0_quality is None:
            continue
        requests += 1 / verdict.probability
        chunk[verdict.quality, verdict.l0_quality, verdict.probability] += 1
        if chunk.total() >= _CHUNK:
            _add(sequence, chunk)
    _add(sequence, chunk)
    return {
        "ratio": sequence.ratio,
        "interval": [sequence.low, None if sequence.high == float("inf") else sequence.high],
        "verdicts": results.total() - results["failed"] - results["no_verdict"],
        "requests": requests,
        "results": dict(results),
    }


def _add(sequence: RatioSequence, chunk: Counter[Any]) -> None:
    """Count the verdicts of a chunk, equal ones at once, and empty it."""
    for (quality, l0, probability), count in chunk.items():
        sequence.add(quality, l0, probability, count=count)
    chunk.clear()


def _judges(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Return by judge and rubric how many verdicts there are, what they took, and how they fell."""
    by_judge: dict[tuple[str, str | None], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.arm != CONTROL:
            by_judge[verdict.judge, verdict.rubric].append(verdict)
    rows = []
    for (judge, rubric), of_judge in sorted(by_judge.items(), key=str):
        both = [v.consistent for v in of_judge if v.consistent is not None]
        rows.append(
            {
                "judge": judge,
                "rubric": rubric,
                "results": dict(Counter(v.result for v in of_judge)),
                "consistent_ratio": sum(both) / len(both) if both else None,
                "tokens": _total(v.judge_tokens for v in of_judge),
                "seconds": sum(v.judge_seconds for v in of_judge),
                "joules": _total(v.judge_joules for v in of_judge),
            }
        )
    return rows


def _evaluation(
    store: QualityStore, verdicts: list[Verdict], since: float, until: float
) -> dict[str, Any]:
    """Return the energy and emissions of judging, and of the traffic, in a period."""
    energy = store.energy(since, until)
    traffic, made = energy[False], energy[True]
    # Unknown as long as the operator does not state the judge's energy per token.
    judge_joules = _total(v.judge_joules for v in verdicts)
    return {
        "answers": made.requests,
        "answers_joules": made.joules,
        "answers_grams": made.grams,
        "judge_joules": judge_joules,
        "traffic_joules": traffic.joules,
        "traffic_grams": traffic.grams,
        "requests_of_unknown_energy": traffic.unknown + made.unknown,
        "energy_ratio": (made.joules + (judge_joules or 0.0)) / traffic.joules
        if traffic.joules
        else None,
    }


def _total(values: Iterable[float | None]) -> float | None:
    """Return the sum; None if a value is unknown."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total
