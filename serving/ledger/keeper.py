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
from serving.ledger.model_watch import ModelWatch
from serving.ledger.quality.feedback import Feedback
from serving.ledger.quality.store import QualityStore
from serving.ledger.quality.verdict import Verdict
from serving.ledger.record import REPLICA, Amendment, Record
from serving.ledger.replica import read_problem, write_problem
from serving.ledger.reported import ReportedEnergy
from serving.ledger.settings_exchange import SettingsExchange
from serving.settings.control import LocalControl
from serving.settings.hook import HookConfig
from serving.settings.suspensions import read_findings, write_findings

EXPIRE_EVERY_SECONDS = 600.0
# Held by the keeper of a state folder.
LOCK = "keeper.lock"
# Rounds in which an amendment waits for its record.
_LATE_TRIES = 20
_AMENDED_AT_ONCE = 1000
# Longest time for the journal in one round, s, as settings are to be exchanged in between; and in
# the last round.
DRAIN_SECONDS, _LAST_DRAIN_SECONDS = 5.0, 60.0
_SHOWN_PROBLEM = "the ledger's database cannot be used (the log says why)"
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
        ledger: the database.
        settings: the exchange of the operators' settings with the database.
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
        self.name = f"{REPLICA}:{config.state.absolute()}"
        self.ledger = Ledger(config.ledger_url)
        self._quality = QualityStore(self.ledger)
        self.settings = SettingsExchange(self.name, config.state, control, self.ledger, admin_url)
        self._journal_folder = config.state / FOLDER
        self._lock: int | None = None
        self._migrated = False
        self._tails: dict[Path, Tail] = {}
        self._late: dict[str, tuple[Amendment, int]] = {}
        self._last_expiry = 0.0
        # Unknown at first: a file of an earlier run may be there.
        self._problem: str | None = read_problem(config.state)
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
        self._unknown_feedback = Counter(
            "sprout_feedback_unknown_total",
            "Opinions on answers that are not in the ledger",
            registry=self.registry,
        )
        self._accounts = EnergyAccounts(config, urls, self.registry)
        self._manifests = Manifests(config.folders)
        self._kept: set[str] = set()
        self._watch = ModelWatch(self._manifests, read_findings(config.state), self.registry)
        self._found = str(self._watch.findings)
        self._unnoted = False
        self._reloads = control.stored.reloads
        if config.on_model_change == "warn":
            # Of a time when they were not only to be logged.
            with suppress(OSError):
                write_findings(config.state, {})
        self._reported = ReportedEnergy(config, self.ledger, self._manifests, self.registry)
        self._amendments: list[Amendment] = []
        self._feed = make_feed(config, self.registry)

    def step(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Run one round. Never raises: a later round does what this one could not.

        Args:
            drain_seconds: longest time for the journal, s.
        """
        if not self._acquire_lock():
            return
        if self._feed is not None and not self._feed.ident:
            self._feed.start()
        try:
            self._accounts.read()
            self.settings.write_initial()
            if not self._migrated:
                self.ledger.migrate()
                self._migrated = True
            self.settings.exchange()
            self._keep_policies()
            # Read before the journal, which then holds all requests that arrived earlier.
            complete_before = oldest_in_flight(self._config.state)
            if self._drain(drain_seconds):
                self._amendments += self._accounts.settle(complete_before)
            self._amend_energy()
            if time.monotonic() - self._last_expiry > EXPIRE_EVERY_SECONDS:
                before = days_ago(self._config.retention_days)
                self.ledger.delete(before=before)
                self._unknown_feedback.inc(self._quality.expire(before))
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
        self.step(_LAST_DRAIN_SECONDS)
        if self._lock is not None:
            with suppress(Exception):
                self._amendments += self._accounts.close()
                self._amend_energy()
                self.ledger.leave(self.name)
        self.ledger.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _keep_policies(self) -> None:
        """Store the manifests of the policies in use, for commands on the ledger."""
        self._manifests.refresh()
        for version, manifest in self._manifests.by_version.items():
            if version not in self._kept:
                self.ledger.keep_policy(version, manifest)
                self._kept.add(version)

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

    def _drain(self, seconds: float) -> bool:
        """Copy the journal to the database; return False if a part is left for the next round."""
        deadline = time.monotonic() + seconds
        for path in journal_files(self._journal_folder):
            tail = self._tails.setdefault(path, Tail(path))
            # Checked before reading: lines cannot follow once the writer has ended.
            abandoned = tail.abandoned()
            damaged_before, unread = tail.damaged, False
            for batch in tail.batches():
                if unread := time.monotonic() > deadline:
                    break
                if records := [entry for entry in batch if isinstance(entry, Record)]:
                    self.ledger.add(records)
                    self._rows.inc(len(records))
                    self._accounts.ended(records)
                    self._watch.saw(records)
                if verdicts := [entry for entry in batch if isinstance(entry, Verdict)]:
                    self.ledger.add(verdicts)
                if opinions := [entry for entry in batch if isinstance(entry, Feedback)]:
                    self._quality.add_feedback(opinions)
                self._amend([entry for entry in batch if isinstance(entry, Amendment)])
            self._damaged.inc(tail.damaged - damaged_before)
            if unread:
                return False
            if abandoned:
                path.unlink()
                del self._tails[path]
        self._amend([amendment for amendment, _ in self._late.values()])
        self._tell_findings()
        return True

    def _tell_findings(self) -> None:
        """Tell the workers which models no longer fit their policies."""
        if self.settings.control.stored.reloads != self._reloads:
            self._reloads = self.settings.control.stored.reloads
            self._watch.forget()
        findings = self._watch.findings
        if str(findings) == self._found:
            return
        if self._config.on_model_change == "shadow":
            try:
                write_findings(self._config.state, findings)
            except OSError as error:
                # The next round tries again.
                if not self._unnoted:
                    log.error("which models do not fit cannot be noted: %s", error.strerror)
                self._unnoted = True
                return
        else:
            for model, kinds in findings.items():
                for finding in kinds.values():
                    log.error("model %s: %s (--on-model-change warn)", model, finding.text)
        self._found, self._unnoted = str(findings), False

    def _amend(self, amendments: list[Amendment]) -> None:
        """Apply reported outcomes; one may arrive before its record, written by another worker."""
        amendments = [self._reported.complete(amendment) for amendment in amendments]
        missing = {a.decision_id for a in self.ledger.amend(amendments)} if amendments else set()
        for amendment in amendments:
            key = amendment.decision_id
            if key not in missing:
                self._reported.count(amendment)
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
            # Everybody can read /readyz: the database's host and user stand in the log only.
            write_problem(self._config.state, _SHOWN_PROBLEM if problem is not None else None)
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
