"""Prometheus metrics of the hook, in base units.

With several workers the values live in files that all of them share (the client library's
multiprocess mode, chosen by PROMETHEUS_MULTIPROC_DIR before its import); alone, in a
registry of their own.
"""

import os
import threading
from collections.abc import Mapping
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.record import Record

CONTENT_TYPE = CONTENT_TYPE_LATEST
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_DECISION = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 0.1)
_REQUEST = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The hook's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # A request only adds here; the library's locks and shared files are met in `flush`.
        self._lock = threading.Lock()
        self._counted: dict[tuple[Any, ...], float] = {}
        self._times: list[tuple[float, float, float | None]] = []
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
        self.reloads = self._counter(
            "bundle_loads_total", "Policy bundles found in place of others", "result"
        )
        self._policy = self._gauge(
            "policy_info", "1 for policy bundles in use", "livemax", "version", "model"
        )
        self._shown: set[tuple[str, str]] = set()

    def finished(self, record: Record) -> None:
        """Count one request whose outcome is known; shown by the next `flush`."""
        directive = record.directive if record.applied else "none"
        counts: list[tuple[tuple[Any, ...], float]] = [
            ((self._requests, directive, record.reason, record.mode, str(record.status)), 1),
            ((self._outcomes, record.outcome), 1),
        ]
        if record.completion_tokens is not None:
            counts.append(((self._tokens, directive, "completion"), record.completion_tokens))
        if record.prompt_tokens is not None:
            counts.append(((self._tokens, directive, "prompt"), record.prompt_tokens))
        if record.energy_joules is not None:
            method = record.energy_method or "estimated"
            counts.append(((self._joules, directive, method), record.energy_joules))
        if record.grams is not None:
            counts.append(((self._grams, directive), record.grams))
        self._add(counts)
        with self._lock:
            self._times.append((record.decision_seconds, record.seconds, record.seconds_first))

    def reported(self, row: Mapping[str, Any]) -> None:
        """Count the outcome of a request whose decision was counted before."""
        counts: list[tuple[tuple[Any, ...], float]] = [((self._outcomes, row["outcome"]), 1)]
        if "energy_joules" in row:
            method = row["energy_method"]
            counts.append(((self._joules, "reported", method), row["energy_joules"]))
            counts.append(((self._grams, "reported"), row["grams"]))
        self._add(counts)

    def flush(self, in_flight: int) -> None:
        """Show what has been counted. From a thread: requests don't wait for it."""
        self._in_flight.set(in_flight)
        with self._lock:
            counted, self._counted = self._counted, {}
            times, self._times = self._times, []
        for (metric, *labels), amount in counted.items():
            metric.labels(*labels).inc(amount)
        for decision, whole, until_first in times:
            self._decision.observe(decision)
            self._seconds.observe(whole)
            if until_first is not None:
                self._first.observe(until_first)

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

    def _add(self, counts: list[tuple[tuple[Any, ...], float]]) -> None:
        with self._lock:
            counted = self._counted
            for key, amount in counts:
                counted[key] = counted.get(key, 0) + amount

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
