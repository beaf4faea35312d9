"""Prometheus metrics of the hook, in base units.

With several workers the values live in files that all of them share (the client library's
multiprocess mode, chosen by PROMETHEUS_MULTIPROC_DIR before its import); alone, in a
registry of their own.
"""

import os
from collections import Counter as Counted
from collections import deque
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from envs.carbon.intensity import STEPS, CarbonReading
from serving.ledger.record import Amendment, Record
from serving.settings.rules import Mode

CONTENT_TYPE = CONTENT_TYPE_LATEST
FAIL_OPEN = (
    *("too_large", "unreadable", "no_bundle", "unknown_directive", "deadline", "failed"),
    *("refused", "unwritable"),
)
UNRECORDED = ("journal_full", "write_failed")
_DECISION = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 0.1)
_REQUEST = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The hook's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # A request is only noted here; it is counted in `flush`, from a thread.
        self._ended: deque[Record | Amendment] = deque()
        self._requests = self._counter(
            "requests_total",
            "Requests by directive in the answer, reason, mode and upstream status",
            *("directive", "reason", "mode", "status"),
        )
        self.fail_open = self._counter(
            "fail_open_total", "Requests passed on untouched because the hook failed", "reason"
        )
        self._outcomes = self._counter("outcomes_total", "Requests by how they ended", "outcome")
        self.unrecorded = self._counter(
            "unrecorded_total", "Requests that are missing from the ledger", "reason"
        )
        self._tokens = self._counter("tokens_total", "Tokens of answers", "directive", "kind")
        self._joules = self._counter(
            "request_energy_joules_total", "Energy of requests", "directive", "method"
        )
        self._grams = self._counter("emissions_grams_total", "gCO2e of requests", "directive")
        self._in_flight = self._gauge("requests_in_flight", "Requests at upstream now", "livesum")
        self._decision = self._histogram(
            "decision_duration_seconds", "Time to parse, decide and rewrite", _DECISION
        )
        self._seconds = self._histogram(
            "request_duration_seconds", "From arrival to the answer's last byte", _REQUEST
        )
        self._first = self._histogram(
            "time_to_first_byte_seconds", "From arrival to the answer's first piece", _FIRST
        )
        self.intensity = self._gauge(
            "carbon_intensity_grams_per_kwh", "Carbon intensity that decisions use", "livemax"
        )
        self.intensity_age = self._gauge(
            "carbon_intensity_age_seconds", "How long it has been out of date", "livemax"
        )
        self._grid = self._gauge(
            "carbon_intensity_info",
            "1 for how the intensity was come by now, and its kind",
            "livemax",
            *("step", "zone", "signal", "scope"),
        )
        self.reloads = self._counter(
            "bundle_loads_total", "Policy bundles found in place of others", "result"
        )
        self._policy = self._gauge(
            "policy_info", "1 for policy bundles in use", "livemax", "version", "model"
        )
        self._mode = self._gauge("mode_info", "1 for the mode that is set", "livemax", "mode")
        self._shown: set[tuple[str, str]] = set()
        # There from the start: the first of them must be seen as a rise.
        for reason in FAIL_OPEN:
            self.fail_open.labels(reason)
        for reason in UNRECORDED:
            self.unrecorded.labels(reason)
        for result in ("loaded", "refused"):
            self.reloads.labels(result)

    def finished(self, record: Record) -> None:
        """A request's outcome is known; the next `flush` shows it."""
        self._ended.append(record)

    def reported(self, amendment: Amendment) -> None:
        """The outcome is known of a request whose decision was counted before."""
        self._ended.append(amendment)

    def flush(self, in_flight: int) -> None:
        """Show what has ended. From a thread: the library's locks and files are slow."""
        self._in_flight.set(in_flight)
        counts: Counted[tuple[Any, ...]] = Counted()
        # Those that end meanwhile wait for the next time.
        for _ in range(len(self._ended)):
            ended = self._ended.popleft()
            if isinstance(ended, Record):
                counts.update(self._of(ended))
                self._decision.observe(ended.decision_seconds)
                self._seconds.observe(ended.seconds)
                if ended.seconds_first is not None:
                    self._first.observe(ended.seconds_first)
            else:
                counts.update(self._of_reported(ended))
        for (metric, *labels), amount in counts.items():
            metric.labels(*labels).inc(amount)

    def _of(self, record: Record) -> dict[tuple[Any, ...], float]:
        directive = record.directive if record.applied else "none"
        status, method = str(record.status), record.energy_method or "estimated"
        counts: dict[tuple[Any, ...], float | None] = {
            (self._requests, directive, record.reason, record.mode, status): 1,
            (self._outcomes, record.outcome): 1,
            (self._tokens, directive, "completion"): record.completion_tokens,
            (self._tokens, directive, "prompt"): record.prompt_tokens,
            (self._joules, directive, method): record.energy_joules,
            (self._grams, directive): record.grams,
        }
        return {key: amount for key, amount in counts.items() if amount is not None}

    def _of_reported(self, amendment: Amendment) -> dict[tuple[Any, ...], float]:
        row = amendment.changes
        counts: dict[tuple[Any, ...], float] = {(self._outcomes, row["outcome"]): 1}
        if "energy_joules" in row:
            method = row["energy_method"]
            counts[self._joules, "reported", method] = row["energy_joules"]
            counts[self._grams, "reported"] = row["grams"]
        return counts

    def mode(self, now: str) -> None:
        """Show the mode."""
        for mode in get_args(Mode):
            self._mode.labels(mode).set(mode == now)

    def grid(self, reading: CarbonReading) -> None:
        """Show how the intensity was come by."""
        for step in STEPS:
            labels = step, reading.zone, reading.signal, reading.scope
            self._grid.labels(*labels).set(step == reading.step)

    def policies(self, in_use: list[tuple[str, str]]) -> None:
        """Show (version, model) of the bundles in use."""
        for version, model in self._shown - set(in_use):
            self._policy.labels(version, model).set(0)
        for version, model in in_use:
            self._policy.labels(version, model).set(1)
        self._shown |= set(in_use)

    def render(self) -> bytes:
        """The exposition text of this process alone."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sprout_{name}", text, labels, registry=self.registry)

    def _gauge(
        self, name: str, text: str, mode: Literal["livesum", "livemax"], *labels: str
    ) -> Gauge:
        return Gauge(f"sprout_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"sprout_{name}", text, buckets=buckets, registry=self.registry)


def render_all(folder: str) -> bytes:
    """The exposition text over all workers that share `folder`."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget(pid: int, folder: str) -> None:
    """A worker has ended: its gauges no longer count."""
    if os.path.isdir(folder):
        mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
