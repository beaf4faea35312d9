"""A report on the quality of each task's answers: intervals, the guard's state, the cost."""

import math
from collections import Counter, defaultdict
from itertools import groupby
from typing import Any

from serving.ledger.database import Ledger
from serving.ledger.quality.store import QualityStore
from serving.ledger.quality.tallies import JudgeTally, QualityTallies, Tally
from serving.ledger.quality.verdict import CANDIDATE, FAILED, NO_VERDICT, SERVED
from serving.quality.cell import Cell
from serving.quality.guard import CellState
from serving.quality.judges.agreement import CREDIT, agreements, recognitions
from serving.quality.judges.length_control import JudgedPair, preference_rates
from serving.quality.judges.protocol import ReferenceJudge
from serving.quality.judges.reviews import PEOPLE
from serving.quality.sequence import RatioSequence

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
    stored = QualityTallies(ledger)
    states = {
        Cell.from_key(key): CellState.model_validate_json(state)
        for key, state in QualityStore(ledger).cells().items()
    }
    cells = states.keys() | {Cell(*cell) for cell in stored.cells_judged(since, until)}
    judged = stored.judges(since, until)
    return {
        "since": since,
        "until": until,
        "confidence": CONFIDENCE,
        "per": "request, weighted by the inverse of its probability to be sampled",
        "baseline": "L0's answer to the same request",
        "cells": [
            {**cell._asdict(), **_cell(stored, cell, states.get(cell, CellState()), since, until)}
            for cell in sorted(cells)
        ],
        "judges": _judges(judged),
        "agreement": [each.to_json() for each in agreements(stored.also_judged_by(PEOPLE, since))],
        "controls": [each._asdict() for each in recognitions(stored.controls(since))],
        "evaluation": _evaluation(stored, judged, since, until),
    }


def read_length_control(ledger: Ledger, since: float, until: float) -> list[dict[str, Any]]:
    """Return how often each judge prefers the judged answers, raw and with length taken out.

    Pairs whose reference says that both answers are right anchor the control; see
    `serving.quality.judges.length_control`.

    Args:
        since, until: the decisions' period, Unix seconds.
    """
    verdicts = QualityTallies(ledger).with_lengths(since, until)
    right = {
        (v.decision_id, v.arm)
        for v in verdicts
        if v.judge == ReferenceJudge.name and v.quality == v.l0_quality == 1
    }
    pairs: dict[tuple[str, str | None], list[JudgedPair]] = defaultdict(list)
    for v in verdicts:
        if v.rubric is not None and v.result in CREDIT and v.tokens and v.l0_tokens:
            length = math.log(v.tokens / v.l0_tokens)
            pair = JudgedPair(CREDIT[v.result], length, (v.decision_id, v.arm) in right)
            pairs[v.judge, v.rubric].append(pair)
    rows = []
    for (judge, rubric), of_judge in sorted(pairs.items(), key=str):
        rates = preference_rates(of_judge)
        if rates is not None:
            anchors = sum(pair.equal for pair in of_judge)
            rows.append({"judge": judge, "rubric": rubric, "anchors": anchors, **rates._asdict()})
    return rows


def _cell(
    stored: QualityTallies, cell: Cell, state: CellState, since: float, until: float
) -> dict[str, Any]:
    tallies = stored.tallies(cell, state.version, max(since, state.since), until)
    floors = Counter[float]()
    for tally in tallies:
        if tally.floor is not None:
            floors[tally.floor] += tally.verdicts
    return {
        "level": state.level,
        "priced_floor": state.floor,
        "floor": floors.most_common(1)[0][0] if floors else None,
        "changed": state.since or None,
        "policy_version": state.version or None,
        **{arm: _quality([t for t in tallies if t.arm == arm]) for arm in (SERVED, CANDIDATE)},
    }


def _quality(tallies: list[Tally]) -> dict[str, Any]:
    """Return the ratio of some verdicts, its interval, and the number of each result."""
    sequence, results, requests = RatioSequence(1 - CONFIDENCE), Counter[str](), 0.0
    for _, of_hour in groupby(tallies, key=lambda tally: tally.hour):
        for tally in of_hour:
            results[tally.result] += tally.verdicts
            if tally.quality is None or tally.l0_quality is None:
                continue
            requests += tally.verdicts / tally.probability
            sequence.add(tally.quality, tally.l0_quality, tally.probability, count=tally.verdicts)
        sequence.look()
    return {
        "ratio": sequence.ratio,
        "interval": [sequence.low, None if sequence.high == float("inf") else sequence.high],
        "verdicts": results.total() - results[FAILED] - results[NO_VERDICT],
        "requests": requests,
        "results": dict(results),
    }


def _judges(tallies: list[JudgeTally]) -> list[dict[str, Any]]:
    """Return by judge and rubric how many verdicts there are, what they took, and how they fell."""
    by_judge: dict[tuple[str, str | None], list[JudgeTally]] = defaultdict(list)
    for tally in tallies:
        by_judge[tally.judge, tally.rubric].append(tally)
    rows = []
    for (judge, rubric), of_judge in sorted(by_judge.items(), key=str):
        seen_twice = sum(tally.seen_twice for tally in of_judge)
        consistent = sum(tally.consistent for tally in of_judge)
        rows.append(
            {
                "judge": judge,
                "rubric": rubric,
                "results": {tally.result: tally.verdicts for tally in of_judge},
                "consistent_ratio": consistent / seen_twice if seen_twice else None,
                "tokens": sum(tally.tokens or 0 for tally in of_judge),
                "seconds": sum(tally.seconds for tally in of_judge),
                "joules": _joules(of_judge),
            }
        )
    return rows


def _joules(tallies: list[JudgeTally]) -> float | None:
    """Return the judges' energy, J; None if that of a verdict is unknown."""
    if any(tally.unknown_joules for tally in tallies):
        return None
    return sum(tally.joules or 0.0 for tally in tallies)


def _evaluation(
    stored: QualityTallies, judged: list[JudgeTally], since: float, until: float
) -> dict[str, Any]:
    """Return the energy and emissions of judging, and of the traffic, in a period."""
    energy = stored.energy(since, until)
    traffic, made = energy[False], energy[True]
    # Unknown as long as the operator does not state the judge's energy per token.
    judge_joules = _joules(judged)
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
