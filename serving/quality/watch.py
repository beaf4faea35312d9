"""Watches the quality of a replica's answers: samples in, verdicts and the guard's levels out.

It runs beside the workers, in the gateway's parent process or in a thread of an embedded hook. If
it fails or lags, requests are served all the same, at the last levels.
"""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from envs.errors import LedgerError
from serving.ledger.database import days_ago
from serving.ledger.in_flight import count_in_flight
from serving.ledger.journal import Journal
from serving.ledger.keeper import Keeper
from serving.ledger.quality.store import QualityStore
from serving.ledger.quality.tallies import QualityTallies
from serving.ledger.quality.verdict import Verdict
from serving.quality.cell import Cell
from serving.quality.evaluator import Evaluator
from serving.quality.guard import CellState, Guard, Reaches
from serving.quality.judges.agreement import TrustTable, agreements, recognitions
from serving.quality.judges.reviews import PEOPLE, Reviews
from serving.quality.metrics import QualityMetrics
from serving.quality.report import read_quality
from serving.quality.sampling.sample import Sample
from serving.quality.sampling.shares import Shares
from serving.quality.sampling.trigger import Trigger
from serving.quality.signs import read_signs
from serving.quality.webhook import SECRET_VARIABLE, Webhook, read_secret
from serving.settings.guard_levels import CellSetting, write_levels
from serving.settings.hook import HookConfig

# Samples that wait to be judged, in number and bytes; more are dropped.
MOST_SAMPLES, MOST_BYTES = 4000, 64 << 20
# Samples that are judged side by side.
_AT_ONCE = 2
_SHARES_SECONDS = 60.0
# Time until the queue is looked at again, if nothing is due, and after a failure, s.
_IDLE_SECONDS, _FAILED_SECONDS = 0.2, 5.0
# Longest wait for a judge at the end, s: what it says later is lost.
_CLOSE_SECONDS = 3.0
# How often the metrics of quality are computed, and the arms compared by what people do, s.
_REPORT_SECONDS, _SIGNS_SECONDS = 60.0, 600.0
# People's verdicts and controls count for so many days.
_AGREEMENT_DAYS = 90.0
log = logging.getLogger("sprout")


class GridNow(NamedTuple):
    """The grid's clock, Unix seconds, and its carbon intensity, gCO2e/kWh."""

    time: float
    g_per_kwh: float


class QualityWatch:
    """Judges samples in threads of its own, and moves the guard's cells.

    Call `take` for each sample, `step` twice a second, and `close` at the end.

    Args:
        config: the hook's settings.
        keeper: the keeper of the same state folder; its registry takes the metrics.
        evaluator: judges samples.
        reaches: see `serving.quality.guard.Reaches`.
        grid: returns the grid now; None if its intensity is unknown.
        journal: takes the verdicts; `close` closes it.
        reviews: pairs of answers that wait for people.

    Raises:
        ConfigError: the webhook's secret is missing or wrong.
    """

    def __init__(
        self,
        config: HookConfig,
        keeper: Keeper,
        evaluator: Evaluator,
        reaches: Reaches,
        grid: Callable[[], GridNow | None],
        journal: Journal,
        reviews: Reviews,
    ) -> None:
        self._config = config
        self._ledger, self._store = keeper.ledger, QualityStore(keeper.ledger)
        self._webhook: Webhook | None = None
        if config.alarm_webhook is not None:
            secret = read_secret(os.environ.get(SECRET_VARIABLE))
            self._webhook = Webhook(config.alarm_webhook, secret, self._store)
        self._evaluator = evaluator
        self._grid = grid
        self._guard = Guard(
            self._store, reaches, act=config.guard == "act", ease=config.ease_floors
        )
        self._trigger = Trigger(config.judge_hours, config.judge_delay, config.judge_busy)
        self._shares = Shares(config.sample, config.judge_energy)
        self._shares_time = self._reported = self._compared = 0.0
        self._trusted = -math.inf
        self._by_cell: dict[Cell, float] = {}
        self._written: list[CellSetting] | None = None
        self._journal = journal
        self.reviews = reviews
        self._waiting: deque[tuple[Sample, int]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._metrics = QualityMetrics(keeper.registry)
        self._threads = [
            threading.Thread(target=self._judge, name="sprout-judge", daemon=True)
            for _ in range(_AT_ONCE)
        ]
        for thread in self._threads:
            thread.start()

    def take(self, sample: Sample) -> None:
        """Keep a sample in memory until it is judged."""
        try:
            size = len(sample.to_bytes())
        except TypeError:
            size = MOST_BYTES + 1
        with self._lock:
            if len(self._waiting) < MOST_SAMPLES and self._bytes + size <= MOST_BYTES:
                self._waiting.append((sample, size))
                self._bytes += size
                return
            self._shares.dropped()
        self._metrics.samples.labels("dropped").inc()

    def forget(self, decision_id: str) -> None:
        """Drop the texts of a request that is deleted."""
        with self._lock:
            kept = [each for each in self._waiting if each[0].decision_id != decision_id]
            self._waiting = deque(kept)
            self._bytes = sum(size for _, size in kept)
        self.reviews.forget(decision_id)

    def step(self) -> None:
        """Count new verdicts, and tell the workers the levels. Never raises."""
        self._evaluator.answers.publish()
        if (grid := self._grid()) is not None:
            with self._lock:
                self._trigger.saw(grid.time, grid.g_per_kwh)
        try:
            if time.monotonic() - self._trusted > _REPORT_SECONDS:
                self._read_trust()
                self._trusted = time.monotonic()
            for event in self._guard.step():
                self._metrics.moved(event)
                log.warning("%s", describe(event))
            if time.monotonic() - self._reported > _REPORT_SECONDS:
                self._reported = time.monotonic()
                self._report()
            if time.monotonic() - self._compared > _SIGNS_SECONDS:
                self._compared = time.monotonic()
                self._compare_signs()
        except LedgerError:
            # The keeper reports it. The levels stay, and verdicts wait in the journal.
            return
        self._set_shares()
        self._write()

    def close(self) -> None:
        """Stop; samples that were not judged are lost."""
        self._ended.set()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._webhook is not None:
            self._webhook.close()
        self._evaluator.answers.close()
        self._journal.close()

    def _read_trust(self) -> None:
        """Read what the judges may do: before anything that they said is counted."""
        since = days_ago(_AGREEMENT_DAYS)
        tallies = QualityTallies(self._ledger)
        known = agreements(tallies.also_judged_by(PEOPLE, since))
        seen = recognitions(tallies.controls(since))
        self._guard.trust = TrustTable(known, seen, self._config.judge_agreement)

    def _report(self) -> None:
        """Set the metrics of quality."""
        quality = read_quality(self._ledger, month_start(time.time()), time.time())
        self._metrics.report(quality)

    def _compare_signs(self) -> None:
        """Set the metrics of what people do after an answer."""
        self._metrics.signs(read_signs(self._ledger, week_start(time.time()), time.time()))

    def _set_shares(self) -> None:
        if time.monotonic() - self._shares_time < _SHARES_SECONDS and self._shares_time:
            return
        self._shares_time = time.monotonic()
        with self._lock:
            self._shares.age(time.time())
            self._by_cell = self._shares.by_cell()

    def _write(self) -> None:
        settings = []
        for cell in sorted(self._guard.states.keys() | self._by_cell.keys()):
            state = self._guard.states.get(cell) or CellState()
            level = self._guard.level(state)
            settings.append(
                CellSetting(
                    **cell._asdict(),
                    level=level,
                    floor=state.floor,
                    asked=state.asked,
                    share=self._by_cell.get(cell),
                )
            )
            self._metrics.level(cell, level)
        if settings == self._written:
            return
        try:
            write_levels(self._config.state, settings)
        except OSError as error:
            log.error("the guard's levels cannot be written: %s", error.strerror)
            return
        self._written = settings

    def _judge(self) -> None:
        """Judge samples when it is time to, until `close` is called."""
        wait = 0.0
        while not self._ended.wait(wait):
            try:
                wait = 0.0 if self._judge_next() else _IDLE_SECONDS
            except Exception as error:
                log.error("judging failed and goes on: %s", type(error).__name__)
                wait = _FAILED_SECONDS

    def _judge_next(self) -> bool:
        """Judge the oldest sample if it is time to; return whether one was judged."""
        in_flight = count_in_flight(self._config.state)
        with self._lock:
            if not self._waiting:
                return False
            waited = time.time() - self._waiting[0][0].decided
            if not self._trigger.due(waited, in_flight):
                return False
            sample, size = self._waiting.popleft()
            self._bytes -= size
        try:
            verdicts = self._evaluator.evaluate(sample)
            for verdict in verdicts:
                self._journal.write(verdict)
                self._metrics.judged(verdict)
            with self._lock:
                cell = Cell(sample.model, sample.task, sample.zone)
                self._shares.saw(cell, sample.probability, sample.joules, _cost(verdicts))
        except Exception as error:
            log.error("a sample could not be judged: %s", type(error).__name__)
            self._metrics.samples.labels("dropped").inc()
            return True
        self._metrics.samples.labels("judged").inc()
        return True


def week_start(now: float) -> float:
    """Return when the week of a time began, Monday in UTC; both Unix seconds."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day - timedelta(days=day.weekday())).timestamp()


def month_start(now: float) -> float:
    """Return when the month before that of a time began, in UTC; both Unix seconds.

    A fixed start, because an interval holds at every look only if its evidence is not dropped.
    """
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day.replace(day=1) - timedelta(days=1)).replace(day=1).timestamp()


def _cost(verdicts: list[Verdict]) -> float | None:
    """Return the energy that verdicts took, J, with that of judges as far as it is known.

    None if that of an answer is unknown.
    """
    made = [verdict.evaluation_joules for verdict in verdicts]
    known = [joules for joules in made if joules is not None]
    judges = sum(verdict.judge_joules or 0.0 for verdict in verdicts)
    return sum(known) + judges if len(known) == len(made) else None


def describe(event: dict[str, object]) -> str:
    """Return an event of the guard in words."""
    task = event["task"] or "untagged requests"
    where = f"quality of {task} ({event['model']}, {event['zone']})"
    kept = "" if event["acted"] else " (--guard warn: nothing is changed)"
    if event["reason"] == "returned":
        return f"{where}: candidates keep the floor {event['floor']} again; steered as asked{kept}"
    if event["reason"] == "eased":
        return f"{where}: above the floor {event['floor']}; priced for {event['eased_floor']:.3f}"
    if event["reason"] == "released":
        return f"{where}: steered as asked again, by an operator"
    if event["to"] == "asked":
        return f"{where}: {event['ratio']:.3f} of L0's at the eased price; priced as asked again"
    action = "kept at L0" if event["to"] == "l0" else f"priced for {event['raised_floor']:.3f}"
    return (
        f"{where}: {event['ratio']:.3f} of L0's, below the floor {event['floor']}; {action}{kept}"
    )
