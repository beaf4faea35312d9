"""The guard: withdraws the policy where quality falls below its floor, and gives it back.

It works cell by cell; a cell is the requests of one task to one model in one zone. It never looks
at more than verdicts, and it keeps its state in the ledger, so that every replica acts alike.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from serving.ledger.quality.store import QualityStore
from serving.ledger.quality.verdict import CANDIDATE, SERVED, Verdict
from serving.ledger.record import new_id
from serving.quality.cell import Cell
from serving.quality.detector import BETS, Detector
from serving.quality.judges.agreement import TrustTable

# "asked": the policy runs at the price of the floor that was asked for; "raised": at the price of a
# higher floor; "l0": every request keeps L0.
Level = Literal["asked", "raised", "l0"]
# Largest probability of a false alarm in a cell within a number of its requests.
FALSE_ALARMS, PER_REQUESTS = 0.05, 100_000
THRESHOLD = PER_REQUESTS / FALSE_ALARMS
# Longest time until every worker serves at a new level, s.
SPREAD_SECONDS = 5.0
# Verdicts of a cell that are kept, to tell how low its quality has fallen.
_RECENT = 500
# Verdicts that are counted in one transaction.
_AT_ONCE = 1000


class CellState(BaseModel):
    """What the guard knows of a cell.

    Attributes:
        level: see `Level`.
        floor: the higher floor at level "raised"; None at the others.
        since: time of the last change of level or policy, Unix seconds. Verdicts on earlier
            decisions are evidence of what no longer applies.
        version: version of the policy bundle that the evidence is of.
        falls, rises: evidence of the two detectors, by bet. A fall is looked for in the answers
            that are served, a rise in the candidates.
        recent: quality, L0's quality and 1 / probability of the last served answers that were
            judged.
        judged: verdicts counted since `since`.
    """

    model_config = ConfigDict(extra="ignore")

    level: Level = "asked"
    floor: float | None = None
    since: float = 0.0
    version: str = ""
    falls: list[float] = [0.0] * len(BETS)
    rises: list[float] = [0.0] * len(BETS)
    recent: list[tuple[float, float, float]] = []
    judged: int = 0

    def begin(self, since: float) -> None:
        """Forget the evidence, because another level or policy applies from a time on."""
        self.since, self.judged, self.recent = since, 0, []
        self.falls, self.rises = [0.0] * len(BETS), [0.0] * len(BETS)


# Returns whether some price of a cell's policy alone keeps a floor.
Reaches = Callable[[Cell, float], bool]


class Guard:
    """Counts verdicts and moves cells between levels.

    Both directions need the same evidence: an e-detector beyond `THRESHOLD`. So at a quality that
    is exactly the floor, a cell changes its level by luck at most once in `THRESHOLD` requests in
    the mean: it does not flap.

    Args:
        store: the verdicts and the states.
        reaches: see `Reaches`.
        act: False only notes what would be done.

    Attributes:
        trust: what the judges may do.
        states: each cell's state after the last step.
    """

    def __init__(self, store: QualityStore, reaches: Reaches, *, act: bool = True) -> None:
        self._store = store
        self._reaches = reaches
        self._act = act
        self.trust = TrustTable((), (), 0.0)
        self.states: dict[Cell, CellState] = {}

    def step(self) -> list[dict[str, Any]]:
        """Count the new verdicts of all replicas; return the events.

        Raises:
            LedgerError: the database cannot be used; nothing is counted.
        """
        events: list[dict[str, Any]] = []
        while True:
            now = time.time()
            with self._store.guard() as transaction:
                verdicts = transaction.take(_AT_ONCE)
                states = {
                    Cell.from_key(key): CellState.model_validate_json(state)
                    for key, state in transaction.cells().items()
                }
                changed = set()
                for verdict in verdicts:
                    cell = Cell(verdict.model, verdict.task, verdict.zone)
                    changed.add(cell)
                    event = self.count(cell, states.setdefault(cell, CellState()), verdict, now)
                    if event is not None:
                        transaction.note(new_id(), now, event)
                        events.append(event)
                for cell in changed:
                    transaction.put(cell.key, states[cell].model_dump_json())
            self.states = states
            if len(verdicts) < _AT_ONCE:
                return events

    def count(
        self, cell: Cell, state: CellState, verdict: Verdict, now: float
    ) -> dict[str, Any] | None:
        """Count a verdict; return the event if it changes the cell's level.

        Args:
            now: time from which a change applies, Unix seconds.
        """
        if verdict.policy_version != state.version:
            if verdict.decided <= state.since:
                return None
            # The level stays: another policy has to show first that it is better.
            state.begin(verdict.decided if state.version else 0.0)
            state.version = verdict.policy_version
        if verdict.quality is None or verdict.l0_quality is None or verdict.floor is None:
            return None
        if verdict.decided <= state.since:
            return None
        trust = self.trust.of(verdict)
        weight = 1 / verdict.probability
        difference = verdict.quality - verdict.floor * verdict.l0_quality
        if verdict.arm == SERVED and state.level != "l0" and trust.tighten:
            state.judged += 1
            state.recent = [*state.recent, (verdict.quality, verdict.l0_quality, weight)][-_RECENT:]
            state.falls, alarm = _watched(state.falls, difference, verdict.probability, falls=True)
            return self._breached(cell, state, verdict, alarm, now) if alarm else None
        if verdict.arm == CANDIDATE and state.level != "asked" and trust.restore:
            state.judged += 1
            state.rises, alarm = _watched(state.rises, difference, verdict.probability, falls=False)
            if not alarm:
                return None
            event = _event(cell, state, verdict, "returned", "asked", alarm)
            self._move(state, now, "asked")
            return event | {"acted": self._act}
        return None

    def _breached(
        self, cell: Cell, state: CellState, verdict: Verdict, evidence: float, now: float
    ) -> dict[str, Any]:
        """Raise the price so far that the lost quality is foretold back, or withdraw the policy."""
        floor = verdict.floor or 0.0
        ratio, requests = since_change(state.recent, floor)
        raised = floor + max(floor - ratio, 0.0)
        suffices = state.level == "asked" and raised < 1 and self._reaches(cell, raised)
        level: Level = "raised" if suffices else "l0"
        event = _event(cell, state, verdict, "breached", level, evidence)
        self._move(state, now, level, raised if suffices else None)
        return event | {
            "acted": self._act,
            "raised_floor": raised if suffices else None,
            "ratio": ratio,
            "requests_since_change": requests,
        }

    def _move(self, state: CellState, now: float, level: Level, floor: float | None = None) -> None:
        if self._act:
            state.level, state.floor = level, floor
        state.begin(now + SPREAD_SECONDS)


def _event(
    cell: Cell, state: CellState, verdict: Verdict, reason: str, level: Level, evidence: float
) -> dict[str, Any]:
    """Return a change of level as JSON-ready values, with its evidence."""
    return {
        **cell._asdict(),
        "reason": reason,
        "from": state.level,
        "to": level,
        "floor": verdict.floor,
        "evidence": evidence,
        "threshold": THRESHOLD,
        "judged": state.judged,
        "since": state.since,
        "judge": verdict.judge,
        "policy_version": verdict.policy_version,
    }


def _watched(
    evidence: list[float], difference: float, probability: float, *, falls: bool
) -> tuple[list[float], float]:
    """Return a detector's evidence after one more verdict; and its mean at an alarm, else 0."""
    detector = Detector(falls=falls, threshold=THRESHOLD)
    detector.by_bet = np.array([evidence])
    detector.add(difference, probability)
    return detector.by_bet[0].tolist(), float(detector.evidence[0]) * bool(detector.alarms[0])


def since_change(recent: list[tuple[float, float, float]], floor: float) -> tuple[float, float]:
    """Return the quality relative to L0 since it most likely fell, and the requests since then.

    The change is placed where the later verdicts lie below the floor the most in sum.

    Args:
        recent: quality, L0's quality and weight of each verdict, oldest first; not empty.
    """
    quality, l0, weight = np.array(recent).T
    below = np.cumsum((weight * (floor * l0 - quality))[::-1])[::-1]
    start = int(np.argmax(below))
    total = float((weight * l0)[start:].sum())
    ratio = float((weight * quality)[start:].sum()) / total if total else 0.0
    return ratio, float(weight[start:].sum())
