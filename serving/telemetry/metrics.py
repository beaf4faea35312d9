"""Prometheus metrics of the hook, in base units.

Several workers keep the values in shared files: the client library's multiprocess mode, which
PROMETHEUS_MULTIPROC_DIR enables if it is set before the library's import. A single process keeps
the values in its own registry.
"""

import os
from collections import Counter as Counted
from collections import deque
from collections.abc import Collection
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
    *("refused", "unwritable", "no_intensity"),
)
UNRECORDED = ("journal_full", "write_failed")
# Upper bounds of histogram buckets, s.
_DECISION_BUCKETS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 0.1)
_REQUEST_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FIRST_BYTE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The hook's metrics of this process.

    Attributes:
        registry: the registry of all these metrics.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Finished requests wait here until `flush`, in another thread, counts them.
        self._ended: deque[Record | Amendment] = deque()
        self._create_request_metrics()
        self._create_state_metrics()
        self._shown_suspended: set[str] = set()
        self._shown_policies: set[tuple[str, str]] = set()
        self._create_failure_series()

    def _create_request_metrics(self) -> None:
        self._requests = self._counter(
            "requests_total",
            "Requests by applied directive, reason, mode and upstream status",
            *("directive", "reason", "mode", "status"),
        )
        self._shadowed = self._counter(
            "shadow_requests_total",
            "Requests in mode shadow, by the directive that mode on would have applied",
            "directive",
        )
        self.fail_open = self._counter(
            "fail_open_total", "Requests passed on unchanged because the hook failed", "reason"
        )
        self._outcomes = self._counter("outcomes_total", "Requests by outcome", "outcome")
        self.unrecorded = self._counter(
            "unrecorded_total", "Records that could not be written to the journal", "reason"
        )
        self.samples_dropped = self._counter(
            "samples_dropped_total", "Sampled requests that did not reach the judges' queue"
        )
        self._tokens = self._counter(
            "tokens_total", "Tokens of prompts and answers", "directive", "kind"
        )
        self._joules = self._counter(
            "request_energy_joules_total", "Energy of requests, J", "directive", "method"
        )
        self._grams = self._counter(
            "emissions_grams_total", "Emissions of requests, gCO2e", "directive"
        )
        self._unknown_energy = self._counter(
            "energy_unknown_total",
            "Requests whose energy is unknown: no token counts, or no rate for the model",
            "reason",
        )
        self._in_flight = self._gauge("requests_in_flight", "Requests in flight now", "livesum")
        self._decision = self._histogram(
            "decision_duration_seconds",
            "Time to parse, decide and rewrite a request",
            _DECISION_BUCKETS,
        )
        self._seconds = self._histogram(
            "request_duration_seconds",
            "Time from a request's arrival to the answer's last byte",
            _REQUEST_BUCKETS,
        )
        self._first = self._histogram(
            "time_to_first_byte_seconds",
            "Time from a request's arrival to the answer's first byte",
            _FIRST_BYTE_BUCKETS,
        )

    def _create_state_metrics(self) -> None:
        self.intensity = self._gauge(
            "carbon_intensity_grams_per_kwh",
            "Carbon intensity that decisions use, gCO2e/kWh",
            "livemax",
        )
        self.intensity_age = self._gauge(
            "carbon_intensity_age_seconds",
            "Time since the hour of the carbon intensity ended",
            "livemax",
        )
        self._grid = self._gauge(
            "carbon_intensity_info",
            "1 for the step that the carbon intensity came from, and its zone and kind",
            "livemax",
            *("step", "zone", "signal", "scope"),
        )
        self.reloads = self._counter(
            "bundle_loads_total", "Changed policy bundles, loaded or refused", "result"
        )
        self._policy = self._gauge(
            "policy_info", "1 for each policy bundle in use", "livemax", "version", "model"
        )
        self._suspended = self._gauge(
            "model_suspended",
            "1 while a model's requests (* is all) are not steered, because something does not fit",
            "livemax",
            "model",
        )
        self._mode = self._gauge("mode_info", "1 for the mode in use", "livemax", "mode")
        self.kill_switch = self._gauge(
            "kill_switch", "1 while the kill switch holds all requests at off", "livemax"
        )

    def _create_failure_series(self) -> None:
        """Start the counters of failures at 0: Prometheus sees the first event only as a rise."""
        for reason in FAIL_OPEN:
            self.fail_open.labels(reason)
        for reason in UNRECORDED:
            self.unrecorded.labels(reason)
        for reason in ("no_tokens", "no_rate"):
            self._unknown_energy.labels(reason)
        for result in ("loaded", "refused"):
            self.reloads.labels(result)

    def finished(self, record: Record) -> None:
        """Take a finished request; the next `flush` counts it."""
        self._ended.append(record)

    def reported(self, amendment: Amendment) -> None:
        """Take the reported outcome of a request whose decision is already counted."""
        self._ended.append(amendment)

    def flush(self, in_flight: int) -> None:
        """Count the finished requests.

        Call it outside the event loop: the client library's locks and files are slow.

        Args:
            in_flight: requests now in flight.
        """
        self._in_flight.set(in_flight)
        counts: Counted[tuple[Any, ...]] = Counted()
        # Requests that finish meanwhile wait for the next call.
        for _ in range(len(self._ended)):
            ended = self._ended.popleft()
            if isinstance(ended, Record):
                counts.update(self._record_counts(ended))
                self._decision.observe(ended.decision_seconds)
                self._seconds.observe(ended.seconds)
                if ended.seconds_first is not None:
                    self._first.observe(ended.seconds_first)
            else:
                counts.update(self._amendment_counts(ended))
        for (metric, *labels), amount in counts.items():
            metric.labels(*labels).inc(amount)

    def _record_counts(self, record: Record) -> dict[tuple[Any, ...], float]:
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
        if record.would_be is not None:
            counts[self._shadowed, record.would_be] = 1
        if record.energy_joules is None and record.outcome != "decided":
            reason = "no_tokens" if record.completion_tokens is None else "no_rate"
            counts[self._unknown_energy, reason] = 1
        return {key: amount for key, amount in counts.items() if amount is not None}

    def _amendment_counts(self, amendment: Amendment) -> dict[tuple[Any, ...], float]:
        return {(self._outcomes, amendment.changes["outcome"]): 1}

    def mode(self, now: str) -> None:
        """Set the gauge of the mode."""
        for mode in get_args(Mode):
            self._mode.labels(mode).set(mode == now)

    def grid(self, reading: CarbonReading) -> None:
        """Set the gauge of the step that the carbon intensity came from."""
        for step in STEPS:
            labels = step, reading.zone, reading.signal, reading.scope
            self._grid.labels(*labels).set(step == reading.step)

    def policies(self, in_use: list[tuple[str, str]]) -> None:
        """Set the gauge of the bundles in use.

        Args:
            in_use: (version, model) of each bundle.
        """
        for version, model in self._shown_policies - set(in_use):
            self._policy.labels(version, model).set(0)
        for version, model in in_use:
            self._policy.labels(version, model).set(1)
        self._shown_policies |= set(in_use)

    def suspended(self, models: Collection[str]) -> None:
        """Set the gauge of the models that are not steered."""
        for model in self._shown_suspended - set(models):
            self._suspended.labels(model).set(0)
        for model in models:
            self._suspended.labels(model).set(1)
        self._shown_suspended |= set(models)

    def render(self) -> bytes:
        """Return the metrics of this process in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sprout_{name}", text, labels, registry=self.registry)

    def _gauge(
        self, name: str, text: str, mode: Literal["livesum", "livemax"], *labels: str
    ) -> Gauge:
        return Gauge(f"sprout_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"sprout_{name}", text, buckets=buckets, registry=self.registry)


def render_workers(folder: str) -> bytes:
    """Return the metrics of all workers that share `folder`, in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def remove_worker(pid: int, folder: str) -> None:
    """Remove the gauges of a worker that has ended."""
    if os.path.isdir(folder):
        mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
