"""Keeps a replica in step with the database: journal in, operators' settings out.

One keeper a state folder, in the gateway's parent process, or in a thread of an embedded hook.
While the database is away the journal waits on the disk and the last settings hold.
"""

import fcntl
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.ledger.database import Ledger, days_ago
from serving.ledger.energy import EnergyAccounts
from serving.ledger.in_flight import oldest_in_flight
from serving.ledger.intensity_feed import make_feed
from serving.ledger.journal import FOLDER, Tail, journal_files
from serving.ledger.record import Amendment, Record
from serving.settings.control import Control, LocalControl
from serving.settings.hook import HookConfig

EXPIRE_EVERY_SECONDS = 600.0
_LATE_TRIES = 20
_AMENDED_AT_ONCE = 1000
log = logging.getLogger("sprout")


class Keeper:
    """Call `step` twice a second, and `close` at the end.

    It also keeps the books of the server's energy (`serving.ledger.energy`) and, where the carbon
    intensity comes from a live source, asks for it.

    Args:
        urls: of the servers behind the hook.

    Attributes:
        registry: its own metrics.

    Raises:
        ConfigError, DataError: the database's URL, the source of carbon intensity, the
            meter's settings or the coefficients are wrong.
    """

    def __init__(self, config: HookConfig, control: LocalControl, urls: Sequence[str] = ()) -> None:
        self._config = config
        self._control = control
        self.ledger = Ledger(config.ledger_url)
        self._folder = config.state / FOLDER
        self._lock: int | None = None
        self._migrated = False
        self._tails: dict[Path, Tail] = {}
        self._late: dict[str, tuple[Amendment, int]] = {}
        self._expired = 0.0
        self._away: str | None = None
        self.registry = CollectorRegistry()
        self._up = Gauge(
            "sprout_ledger_up", "Whether the database was reached", registry=self.registry
        )
        self._waiting = Gauge(
            "sprout_journal_bytes", "Journal on this replica's disk", registry=self.registry
        )
        self._rows = Counter(
            "sprout_ledger_rows_total", "Records handed to the database", registry=self.registry
        )
        self._damaged = Counter(
            "sprout_journal_damaged_lines_total",
            "Journal lines that were no record",
            registry=self.registry,
        )
        self._accounts = EnergyAccounts(config, urls, self.registry)
        self._amendments: list[Amendment] = []
        self._feed = make_feed(config, self.registry)

    def step(self) -> None:
        """One round. Never raises: what is not done is done in a later one."""
        if not self._alone():
            return
        if self._feed is not None and not self._feed.ident:
            self._feed.start()
        try:
            self._accounts.read()
            if not self._control.on_file:
                # Also while the database is away: all workers draw the same lottery.
                self._set(self._control.now)
            if not self._migrated:
                self.ledger.migrate()
                self._migrated = True
            found = self.ledger.control(self._control.now)
            if found != self._control.now:
                self._set(found)
            # Asked first: all that came before will be among what is drained.
            until = oldest_in_flight(self._config.state)
            self._drain()
            self._amendments += self._accounts.settle(until)
            self._amend_energy()
            if time.monotonic() - self._expired > EXPIRE_EVERY_SECONDS:
                self.ledger.delete(before=days_ago(self._config.retention_days))
                self._expired = time.monotonic()
        except Exception as error:
            # Also Alembic's own, of a schema that a later version has made.
            self._report(type(error).__name__)
        else:
            self._report(None)
        self._waiting.set(sum(_size(path) for path in journal_files(self._folder)))

    def close(self) -> None:
        """A last round, now that no more will come."""
        if self._feed is not None:
            self._feed.close()
        self.step()
        if self._lock is not None:
            with suppress(Exception):
                self._amendments += self._accounts.close()
                self._amend_energy()
        self.ledger.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _set(self, control: Control) -> None:
        self._control.write(control)
        self._control.refresh()

    def _alone(self) -> bool:
        """Whether this is the state folder's keeper."""
        if self._lock is not None:
            return True
        try:
            lock = os.open(self._config.state / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _drain(self) -> None:
        for path in journal_files(self._folder):
            tail = self._tails.setdefault(path, Tail(path))
            # Asked first: what is read after that is all there is.
            abandoned = tail.abandoned()
            damaged = tail.damaged
            for batch in tail.batches():
                if records := [entry for entry in batch if isinstance(entry, Record)]:
                    self.ledger.add(records)
                    self._rows.inc(len(records))
                    self._accounts.ended(records)
                self._amend([entry for entry in batch if isinstance(entry, Amendment)])
            self._damaged.inc(tail.damaged - damaged)
            if abandoned:
                path.unlink()
                del self._tails[path]
        self._amend([amendment for amendment, _ in self._late.values()])

    def _amend(self, amendments: list[Amendment]) -> None:
        """Apply reported outcomes; one may arrive before its record, from another worker."""
        missing = {a.decision_id for a in self.ledger.amend(amendments)} if amendments else set()
        for amendment in amendments:
            key = amendment.decision_id
            _, tries = self._late.pop(key, (amendment, 0))
            if key in missing and tries < _LATE_TRIES:
                self._late[key] = amendment, tries + 1

    def _amend_energy(self) -> None:
        """Shares of measured joules, in place of the estimates that requests came with."""
        while self._amendments:
            self.ledger.amend(self._amendments[:_AMENDED_AT_ONCE])
            del self._amendments[:_AMENDED_AT_ONCE]

    def _report(self, problem: str | None) -> None:
        self._up.set(problem is None)
        if problem != self._away:
            if problem is not None:
                log.error("the ledger %s is away (%s); serving goes on", self.ledger.shown, problem)
            else:
                log.warning("the ledger %s is back", self.ledger.shown)
            self._away = problem


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
