"""Synchronises a replica with the database: journal in, operators' settings out.

Each state folder has one keeper, in the gateway's parent process or in a thread of an embedded
hook. While the database is unreachable, the journal stays on disk and the last settings apply.
"""

import fcntl
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from envs.errors import LedgerError
from serving.ledger.database import Ledger, days_ago
from serving.ledger.energy import EnergyAccounts
from serving.ledger.in_flight import oldest_in_flight
from serving.ledger.intensity_feed import make_feed
from serving.ledger.journal import FOLDER, Tail, journal_files
from serving.ledger.manifests import Manifests
from serving.ledger.record import REPLICA, Amendment, Record
from serving.ledger.replica import ANNOUNCE_SECONDS, Replica, write_replicas
from serving.ledger.reported import ReportedEnergy
from serving.settings.control import Control, LocalControl
from serving.settings.hook import HookConfig
from serving.settings.kill_switch import KillState

EXPIRE_EVERY_SECONDS = 600.0
# Held by the keeper of a state folder.
LOCK = "keeper.lock"
# Rounds in which an amendment waits for its record.
_LATE_TRIES = 20
_AMENDED_AT_ONCE = 1000
log = logging.getLogger("sprout")


class Keeper:
    """Moves a replica's journal to the database, and the operators' settings back.

    Call `step` twice a second, and `close` at the end. The keeper also runs the energy accounts
    (`serving.ledger.energy`) and the feed of a live carbon-intensity source.

    Args:
        control: the operators' settings in the state folder, which the keeper writes.
        urls: URLs of the servers behind the hook.
        admin_url: URL of this replica's admin port; None if it has none.

    Attributes:
        name: name of this replica, for operators.
        control: the operators' settings, as this replica has them.
        ledger: the database.
        registry: the keeper's own metrics.

    Raises:
        ConfigError, DataError: the database's URL, the carbon-intensity source, the meter's
            settings or the coefficients file are wrong.
    """

    def __init__(
        self,
        config: HookConfig,
        control: LocalControl,
        urls: Sequence[str] = (),
        admin_url: str | None = None,
    ) -> None:
        self._config = config
        self.control = control
        self.name = f"{REPLICA}:{config.state.absolute()}"
        self._admin_url = admin_url
        self._announced: Replica | None = None
        self._killed: list[str] = []
        self._kill_problem: str | None = None
        self.ledger = Ledger(config.ledger_url)
        self._journal_folder = config.state / FOLDER
        self._lock: int | None = None
        self._migrated = False
        self._tails: dict[Path, Tail] = {}
        self._late: dict[str, tuple[Amendment, int]] = {}
        self._last_expiry = 0.0
        self._problem: str | None = None
        self.registry = CollectorRegistry()
        self._up = Gauge(
            "sprout_ledger_up", "1 if the database can be reached", registry=self.registry
        )
        self._waiting = Gauge(
            "sprout_journal_bytes",
            "Size of the journal on this replica's disk, bytes",
            registry=self.registry,
        )
        self._rows = Counter(
            "sprout_ledger_rows_total", "Records written to the database", registry=self.registry
        )
        self._damaged = Counter(
            "sprout_journal_damaged_lines_total",
            "Journal lines that held no valid entry",
            registry=self.registry,
        )
        self._accounts = EnergyAccounts(config, urls, self.registry)
        self._manifests = Manifests(config.folders)
        self._kept: set[str] = set()
        self._reported = ReportedEnergy(config, self.ledger, self._manifests, self.registry)
        self._amendments: list[Amendment] = []
        self._feed = make_feed(config, self.registry)

    def step(self) -> None:
        """Run one round. Never raises: a later round does what this one could not."""
        if not self._acquire_lock():
            return
        if self._feed is not None and not self._feed.ident:
            self._feed.start()
        try:
            self._accounts.read()
            if not self.control.read_from_file:
                # Also while the database is unreachable: all workers need the same lottery salt.
                self._write_control(self.control.stored)
            if not self._migrated:
                self.ledger.migrate()
                self._migrated = True
            self._exchange_settings()
            self._keep_policies()
            # Read before the journal, which then holds all requests that arrived earlier.
            complete_before = oldest_in_flight(self._config.state)
            self._drain()
            self._amendments += self._accounts.settle(complete_before)
            self._amend_energy()
            if time.monotonic() - self._last_expiry > EXPIRE_EVERY_SECONDS:
                self.ledger.delete(before=days_ago(self._config.retention_days))
                self._last_expiry = time.monotonic()
        except LedgerError as error:
            # Includes a schema made by a later version.
            self._report(str(error))
        except Exception as error:
            self._report(f"the ledger {self.ledger.shown}: {type(error).__name__}")
        else:
            self._report(None)
        self._waiting.set(sum(_size(path) for path in journal_files(self._journal_folder)))

    def close(self) -> None:
        """Run a last round, after all writers have ended."""
        if self._feed is not None:
            self._feed.close()
        self.step()
        if self._lock is not None:
            with suppress(Exception):
                self._amendments += self._accounts.close()
                self._amend_energy()
                self.ledger.leave(self.name)
        self.ledger.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def kill(self, state: KillState) -> None:
        """Take over a change of the kill switch, whatever the database does.

        Raises:
            OSError: the change could not be written, so other processes may not know it.
        """
        try:
            self.control.kill.merge(state)
        finally:
            self.control.refresh()

    def watch_kill_switch(self) -> None:
        """Look at the mounted file, and log changes. Call it twice a second, in its own thread.

        The database must not delay it.
        """
        problem = None
        try:
            self.control.kill.watch()
        except OSError as error:
            problem = error.strerror
        self.control.refresh()
        if unwritten := self.control.kill.unwritten:
            problem = f"{', '.join(map(str, unwritten))}: {problem or 'not written'}"
        if problem != self._kill_problem and problem is not None:
            log.error("the kill switch cannot be written, so a restart may lose it: %s", problem)
        self._kill_problem = problem
        reasons = self.control.kill.reasons
        if bool(reasons) != bool(self._killed):
            if reasons:
                log.warning(
                    "the kill switch is engaged (%s): requests are relayed unchanged until "
                    "`sprout mode --release-off`",
                    ", ".join(reasons),
                )
            else:
                log.warning("the kill switch is released")
        self._killed = reasons

    def _exchange_settings(self) -> None:
        """Bring the database's settings here, and this replica's state there."""
        control = self.ledger.control(self.control.stored)
        with suppress(OSError):
            # This process knows it; `watch_kill_switch` tries to write it again, and logs.
            self.kill(control.kill)
        if control.kill != self.control.kill.state:
            control = self.ledger.merge_kill(self.control.kill.state)
        if control != self.control.stored:
            self._write_control(control)
        replica = Replica(
            name=self.name,
            seen=time.time(),
            admin_url=self._admin_url,
            mode=self.control.now.mode,
            off=tuple(self.control.kill.reasons),
        )
        last = self._announced
        if (
            last is None
            or replica != last.model_copy(update={"seen": replica.seen})
            or abs(replica.seen - last.seen) > ANNOUNCE_SECONDS
        ):
            self.ledger.announce(replica)
            self._announced = replica
            write_replicas(self._config.state, self.ledger.replicas())

    def _keep_policies(self) -> None:
        """Store the manifests of the policies in use, for commands on the ledger."""
        self._manifests.refresh()
        for version, manifest in self._manifests.by_version.items():
            if version not in self._kept:
                self.ledger.keep_policy(version, manifest)
                self._kept.add(version)

    def _write_control(self, control: Control) -> None:
        self.control.write(control)
        self.control.refresh()

    def _acquire_lock(self) -> bool:
        """Return whether this is the state folder's only keeper; take its lock if it is free."""
        if self._lock is not None:
            return True
        try:
            lock = os.open(self._config.state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
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
        for path in journal_files(self._journal_folder):
            tail = self._tails.setdefault(path, Tail(path))
            # Checked before reading: lines cannot follow once the writer has ended.
            abandoned = tail.abandoned()
            damaged_before = tail.damaged
            for batch in tail.batches():
                if records := [entry for entry in batch if isinstance(entry, Record)]:
                    self.ledger.add(records)
                    self._rows.inc(len(records))
                    self._accounts.ended(records)
                self._amend([entry for entry in batch if isinstance(entry, Amendment)])
            self._damaged.inc(tail.damaged - damaged_before)
            if abandoned:
                path.unlink()
                del self._tails[path]
        self._amend([amendment for amendment, _ in self._late.values()])

    def _amend(self, amendments: list[Amendment]) -> None:
        """Apply reported outcomes; one may arrive before its record, written by another worker."""
        amendments = [self._reported.complete(amendment) for amendment in amendments]
        missing = {a.decision_id for a in self.ledger.amend(amendments)} if amendments else set()
        for amendment in amendments:
            key = amendment.decision_id
            _, tries = self._late.pop(key, (amendment, 0))
            if key in missing and tries < _LATE_TRIES:
                self._late[key] = amendment, tries + 1

    def _amend_energy(self) -> None:
        """Replace the estimates in records by shares of the measured joules."""
        while self._amendments:
            self.ledger.amend(self._amendments[:_AMENDED_AT_ONCE])
            del self._amendments[:_AMENDED_AT_ONCE]

    def _report(self, problem: str | None) -> None:
        self._up.set(problem is None)
        if problem != self._problem:
            if problem is not None:
                log.error("%s; requests are still served", problem)
            else:
                log.warning("the ledger %s is reachable again", self.ledger.shown)
            self._problem = problem


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
