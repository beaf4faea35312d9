"""The guard: withdraws the policy where quality falls below its floor, and gives it back.

It works cell by cell; a cell is the requests of one task to one model in one zone. It never looks
at more than verdicts, and it keeps its state in the ledger, so that every replica acts alike.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from serving.ledger.quality.store import QualityStore
from serving.ledger.quality.verdict import CANDIDATE, SERVED, Verdict
from serving.ledger.record import new_id
from serving.quality.cell import Cell
from serving.quality.detector import BETS, Detector
from serving.quality.judges.agreement import TrustTable
from serving.settings.guard_levels import MOVED

# "eased": the policy runs at the price of a lower floor than was asked for, because it was shown to
# keep the asked one with room to spare; "asked": at the price of the floor that was asked for;
# "raised": at the price of a higher floor; "l0": every request keeps L0.
Level = Literal["eased", "asked", "raised", "l0"]
# A floor's price is eased in steps of this much quality, and by no more than that in all.
EASE_STEP, MOST_EASED = 0.01, 0.05
# Largest probability of a false alarm in a cell within a number of its requests.
FALSE_ALARMS, PER_REQUESTS = 0.05, 100_000
THRESHOLD = PER_REQUESTS / FALSE_ALARMS
# Longest time until every worker serves at a new level, s.
SPREAD_SECONDS = 5.0
# Verdicts in a row about another policy or floor that show that it was changed.
_NEW_POLICY = _NEW_FLOOR = 20
# Verdicts of a cell that are kept, to tell how low its quality has fallen.
_RECENT = 500
# How often the states are read while there are no verdicts, s.
_READ_SECONDS = 2.0
# Verdicts that are counted in one transaction.
_AT_ONCE = 1000


class CellState(BaseModel):
    """The guard's knowledge of a cell.

    Attributes:
        level: see `Level`.
        floor: the floor whose price is paid at levels "raised" and "eased"; None at the others.
        asked: the floor that is asked for, as far as `eases` is about it; None if unknown.
        newer: verdicts in a row about another policy than `version`.
        others: verdicts in a row about another floor than `asked`.
        least: the lowest floor that may be eased to, because a lower one was tried in vain.
        since: time of the last change of level or policy, Unix seconds. Verdicts on earlier
            decisions are evidence of what no longer applies.
        version: version of the policy bundle that the evidence is of.
        falls, rises, eases: evidence of the detectors, by bet. A fall below the floor is looked
            for in the answers that are served, a rise above it in the candidates, and a rise above
            the floor by a step, for easing, in the answers that are served.
        recent: quality, L0's quality and 1 / probability of the last served answers that were
            judged.
        judged: verdicts counted since `since`.
    """

    model_config = ConfigDict(extra="ignore")

    level: Level = "asked"
    floor: float | None = None
    asked: float | None = None
    newer: int = 0
    others: int = 0
    least: float = 0.0
    since: float = 0.0
    version: str = ""
    falls: list[float] = [0.0] * len(BETS)
    rises: list[float] = [0.0] * len(BETS)
    eases: list[float] = [0.0] * len(BETS)
    recent: list[tuple[float, float, float]] = []
    judged: int = 0

    def begin(self, since: float) -> None:
        """Forget the evidence, because another level or policy applies from a time on."""
        self.since, self.judged, self.recent = since, 0, []
        self.falls, self.rises, self.eases = ([0.0] * len(BETS) for _ in range(3))


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
        ease: whether prices may fall below those of the asked floors.

    Attributes:
        trust: what the judges may do.
        states: each cell's state after the last step.
    """

    def __init__(
        self, store: QualityStore, reaches: Reaches, *, act: bool = True, ease: bool = False
    ) -> None:
        self._store = store
        self._reaches = reaches
        self._act = act
        self._ease = ease
        self.trust = TrustTable((), (), 0.0)
        self.states: dict[Cell, CellState] = {}
        self._read = -math.inf

    def step(self) -> list[dict[str, Any]]:
        """Count the new verdicts of all replicas; return the events.

        Raises:
            LedgerError: the database cannot be used; nothing is counted.
        """
        events: list[dict[str, Any]] = []
        if not self._store.pending():
            # Another replica may have moved a cell, or an operator.
            if time.monotonic() - self._read > _READ_SECONDS:
                self.states = _states(self._store.cells())
                self._read = time.monotonic()
            return events
        while True:
            now = time.time()
            with self._store.guard() as transaction:
                verdicts = transaction.take(_AT_ONCE)
                states = _states(transaction.cells())
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

    def release(self, tasks: Collection[str]) -> list[Cell]:
        """Serve some tasks as asked again and forget their evidence, as an operator wishes.

        Args:
            tasks: their names; empty for the requests without a tag.

        Returns:
            the cells that were at another level.
        """
        now = time.time()
        released = []
        with self._store.guard() as transaction:
            for key, stored in transaction.cells().items():
                cell, state = Cell.from_key(key), CellState.model_validate_json(stored)
                if cell.task not in tasks or state.level == "asked":
                    continue
                event = {**cell._asdict(), "reason": "released", "from": state.level, "to": "asked"}
                state.level, state.floor = "asked", None
                state.begin(now + SPREAD_SECONDS)
                transaction.put(key, state.model_dump_json())
                transaction.note(new_id(), now, event | {"acted": True})
                released.append(cell)
        return released

    def count(
        self, cell: Cell, state: CellState, verdict: Verdict, now: float
    ) -> dict[str, Any] | None:
        """Count a verdict; return the event if it changes the cell's level.

        Args:
            now: time from which a change applies, Unix seconds.
        """
        self._reconcile(state, now)
        if verdict.policy_version == state.version:
            state.newer = 0
        else:
            # Replicas may serve two bundles for a while: their evidence is not mixed.
            state.newer += verdict.decided > state.since
            if state.version and state.newer < _NEW_POLICY:
                return None
            state.newer = 0
            # A lower price was the other policy's. A higher level stays: another policy has to show
            # first that it is better.
            if state.level == "eased":
                state.level, state.floor = "asked", None
            state.asked, state.least = None, 0.0
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
            if alarm:
                return self._breached(cell, state, verdict, alarm, now)
            return self._eased(cell, state, verdict, now) if trust.loosen else None
        if verdict.arm == CANDIDATE and state.level in MOVED and trust.restore:
            state.judged += 1
            state.rises, alarm = _watched(state.rises, difference, verdict.probability, falls=False)
            if not alarm:
                return None
            event = _event(cell, state, verdict, "returned", "asked", alarm)
            self._move(state, now, "asked")
            return event | {"acted": self._act}
        return None

    def level(self, state: CellState) -> Level:
        """Return the level at which a cell is to be served here."""
        eased = state.level == "eased" and not self._ease
        return "asked" if eased or not self._act else state.level

    def _reconcile(self, state: CellState, now: float) -> None:
        """Give up a level of a time when the guard acted, or eased, and now does not."""
        if self.level(state) != state.level:
            state.level, state.floor = "asked", None
            state.begin(now)

    def _breached(
        self, cell: Cell, state: CellState, verdict: Verdict, evidence: float, now: float
    ) -> dict[str, Any]:
        """Raise the price so far that the lost quality is foretold back, or withdraw the policy."""
        floor = verdict.floor or 0.0
        ratio, requests = since_change(state.recent, floor)
        if state.level == "eased":
            # The margin was not to spare: back to the asked price, and not so far down again.
            event = _event(cell, state, verdict, "breached", "asked", evidence)
            state.least = (state.floor or 0.0) + EASE_STEP
            self._move(state, now, "asked")
            return event | {"acted": self._act, "ratio": ratio, "requests_since_change": requests}
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

    def _eased(
        self, cell: Cell, state: CellState, verdict: Verdict, now: float
    ) -> dict[str, Any] | None:
        """Lower a price by a step if quality exceeds its floor by one; return the event.

        Requests without a tag may belong to any task, so their prices are not eased.
        """
        floor, possible = verdict.floor, state.level in ("asked", "eased") and self._act
        if not self._ease or not possible or not cell.task or floor is None:
            return None
        if floor != state.asked:
            # Floors of rules and callers are no evidence for this one; many in a row are a new one.
            state.others += 1
            if state.asked is None or state.others >= _NEW_FLOOR:
                state.asked, state.others, state.least = floor, 0, 0.0
                state.level, state.floor = "asked", None
                state.begin(now)
            return None
        state.others = 0
        lower = round((state.floor or floor) - EASE_STEP, 6)
        if lower < max(state.least, floor - MOST_EASED) - 1e-9:
            return None
        above = (verdict.quality or 0.0) - min(1.0, floor + EASE_STEP) * (verdict.l0_quality or 0.0)
        state.eases, alarm = _watched(state.eases, above, verdict.probability, falls=False)
        if not alarm:
            return None
        event = _event(cell, state, verdict, "eased", "eased", alarm)
        self._move(state, now, "eased", lower)
        return event | {"acted": True, "eased_floor": lower}

    def _move(self, state: CellState, now: float, level: Level, floor: float | None = None) -> None:
        if self._act:
            state.level, state.floor = level, floor
        state.begin(now + SPREAD_SECONDS)


def _states(stored: Mapping[str, str]) -> dict[Cell, CellState]:
    return {
        Cell.from_key(key): CellState.model_validate_json(state) for key, state in stored.items()
    }


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
