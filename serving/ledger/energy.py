"""The server's measured energy, and each recorded request's share of it.

The accounts run beside the workers and need only their records: the times of a request's sending,
first token and last token, and its token counts, are enough to split a meter's windows. Until a
window is split, and where there is no meter, a request keeps the estimate in its record.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from envs.energy.attribution import Attribution, Share
from envs.energy.coefficients import read_coefficients
from envs.energy.meter import Meter, WindowReader
from envs.energy.meters.choose import MEASURING, choose_meter, is_local
from envs.energy.work import KINDS, Activity
from envs.errors import ConfigError, MeterError
from serving.ledger.estimate import CHARACTERS_PER_TOKEN, footprint_model
from serving.ledger.record import Amendment, Record
from serving.settings.hook import HookConfig

WINDOW_SECONDS = 1.0
# Splitting many windows at once takes less time than one by one.
SETTLE_SECONDS = 10.0
# Interval between attempts to open a meter that cannot be read.
REOPEN_SECONDS = 30.0
log = logging.getLogger("sprout")


class EnergyAccounts:
    """Splits the energy that a meter measures among the recorded requests.

    Call `read` and `settle` about twice a second, and pass new records to `ended` in between.
    The meter is opened after the gateway has started, and again after it could not be read: a
    meter that fails stops neither the start nor the service.

    Args:
        urls: URLs of the servers behind the hook; empty if the hook runs in the server's process.

    Raises:
        ConfigError, DataError: the settings or the coefficients file are wrong.
    """

    def __init__(
        self, config: HookConfig, urls: Sequence[str], registry: CollectorRegistry
    ) -> None:
        if len(urls) > 1 and config.meter not in ("auto", "none"):
            raise ConfigError(
                f"--meter {config.meter}: several upstreams do not share batches, so one meter's "
                "joules cannot be split among their requests; run one gateway for each upstream"
            )
        self._config = config
        self._urls = urls
        self._footprint = footprint_model(config)
        self._attribution = _attribution(config)
        self._windows: WindowReader | None = None
        # False once it is certain that there will be no meter.
        self._may_open = _may_meter(config, urls)
        # Directive in effect and intensity (gCO2e/kWh) of the requests that await their share.
        self._contexts: dict[str, tuple[str, float | None]] = {}
        self._last_read = self._last_settled = time.monotonic()
        self._last_success = self._last_attempt = time.monotonic()
        self._counted_joules = self._counted_idle_joules = 0.0
        self._problem: str | None = None
        self._method = "estimated"
        self._up = Gauge("sprout_meter_up", "1 if the meter can be read", registry=registry)
        self._info = Gauge(
            "sprout_meter_info",
            "1 for the meter in use",
            ("method", "source", "idle"),
            registry=registry,
        )
        self._joules = Counter(
            "sprout_meter_joules", "Measured energy of the server, J", registry=registry
        )
        self._idle = Counter(
            "sprout_idle_joules", "Measured energy that no request was given, J", registry=registry
        )
        self._attributed = Counter(
            "sprout_attributed_joules",
            "Measured energy given to ended requests, J",
            ("directive",),
            registry=registry,
        )
        self._rates = Gauge(
            "sprout_work_joules", "Energy of one unit of work, J", ("kind",), registry=registry
        )

    def ended(self, records: Sequence[Record]) -> None:
        """Add requests whose records are in the ledger."""
        if self._windows is None:
            return
        for record in records:
            activity = _activity(record)
            # A request that ended before all unsettled windows keeps its estimate: its
            # record waited in the journal because the database was unreachable for long.
            if activity is None or activity.end < self._attribution.oldest_unsettled:
                continue
            self._attribution.ended(activity)
            directive = record.directive if record.applied else "none"
            self._contexts[activity.key] = directive, record.intensity_g_per_kwh

    def read(self) -> None:
        """Read the meter if `WINDOW_SECONDS` have passed since the last reading."""
        now = time.monotonic()
        if now - self._last_read < WINDOW_SECONDS:
            return
        self._last_read = now
        problem: str | None
        try:
            if self._windows is None:
                self._make(now)
                return
            if (reading := self._windows.read()) is not None:
                self._attribution.window(reading)
            problem = self._windows.problem
        except Exception as error:
            # A failure in a meter's library must not stop records and settings.
            problem = f"{type(error).__name__}: {error}"
        self._report(problem)
        if problem is None:
            self._last_success = now
        elif now - self._last_success > REOPEN_SECONDS:
            # Open the meter again: a restarted server has a new process, an exporter new series.
            self._windows = None
            self._last_attempt = -REOPEN_SECONDS

    def settle(self, complete_before: float) -> list[Amendment]:
        """Split windows among requests and amend their records, every `SETTLE_SECONDS`.

        Args:
            complete_before: Unix seconds; all requests that arrived earlier have ended and were
                passed to `ended`.
        """
        now = time.monotonic()
        if now - self._last_settled < SETTLE_SECONDS:
            return []
        self._last_settled = now
        return self._amendments(self._attribution.settle(complete_before))

    def close(self) -> list[Amendment]:
        """Split all remaining windows; return the last amendments."""
        if self._windows is not None and (reading := self._windows.read()) is not None:
            self._attribution.window(reading)
        return self._amendments(self._attribution.settle(float("inf")))

    def _make(self, now: float) -> None:
        waiting = now - self._last_attempt < REOPEN_SECONDS and self._problem is not None
        if not self._may_open or waiting:
            return
        self._last_attempt = now
        try:
            meter = _meter(self._config, self._urls)
        except MeterError as error:
            self._report(str(error))
            return
        if meter is None:
            self._may_open = False
            return
        self._windows, self._method, self._last_success = WindowReader(meter), meter.method, now
        self._windows.read()
        self._info.clear()
        self._info.labels(meter.method, meter.source, self._config.idle).set(1)
        self._report(None)

    def _amendments(self, shares: Sequence[Share]) -> list[Amendment]:
        amendments, attribution = [], self._attribution
        for share in shares:
            directive, intensity = self._contexts.pop(share.key, ("none", None))
            self._attributed.labels(directive).inc(share.joules)
            if share.covered <= 0:
                # No window covers the request, so the estimate in its record is as good.
                continue
            joules = share.joules + share.unmetered_joules
            attributed = share.method == "attributed" and self._method == "measured"
            changes: dict[str, Any] = {
                "energy_joules": joules,
                "energy_method": "attributed" if attributed else "estimated",
                "energy_error_joules": share.error_joules,
            }
            if intensity is not None:
                seconds = share.device_seconds / share.covered
                changes["grams"] = self._footprint.grams(joules, seconds, intensity)
            amendments.append(Amendment(share.key, changes))
        # Only settled windows count. Counters cannot fall, but `idle_joules` may, by rounding.
        self._joules.inc(max(0.0, attribution.measured_joules - self._counted_joules))
        self._counted_joules = max(self._counted_joules, attribution.measured_joules)
        self._idle.inc(max(0.0, attribution.idle_joules - self._counted_idle_joules))
        self._counted_idle_joules = max(self._counted_idle_joules, attribution.idle_joules)
        if attribution.prices.fit is not None:
            for kind, value in zip(KINDS, attribution.prices.fit.values, strict=True):
                self._rates.labels(kind).set(float(value))
        return amendments

    def _report(self, problem: str | None) -> None:
        self._up.set(problem is None)
        if problem != self._problem:
            self._problem = problem
            if problem is not None:
                log.error("the meter failed: %s; requests keep their estimates", problem)
            else:
                log.warning("the meter can be read again")


def _may_meter(config: HookConfig, urls: Sequence[str]) -> bool:
    """Return whether a meter was named, or may be chosen automatically.

    It is chosen automatically only for a single server on this machine: this machine's devices
    do not power a server elsewhere. A hook inside another server's process must name its meter.
    """
    if config.meter == "none":
        return False
    if config.meter == "auto" and config.meter_url is None:
        return len(urls) == 1 and is_local(urls[0])
    return True


def _meter(config: HookConfig, urls: Sequence[str]) -> Meter | None:
    wanted = config.wanted()
    if wanted.kind != "auto":
        return choose_meter(*urls, wanted=wanted)
    for measuring in MEASURING:
        try:
            return choose_meter(*urls, wanted=replace(wanted, kind=measuring))
        except MeterError:
            continue
    return None


def _attribution(config: HookConfig) -> Attribution:
    prior = read_coefficients(config.coefficients) if config.coefficients is not None else None
    return Attribution(config.idle, prior, config.idle_watts)


def _activity(record: Record) -> Activity | None:
    """Return the server's work for a recorded request, or None if its tokens are unknown."""
    if record.completion_tokens is None or not record.status:
        return None
    prompt_tokens = record.prompt_tokens
    if prompt_tokens is None:
        prompt_tokens = record.characters // CHARACTERS_PER_TOKEN
    first = record.seconds_first if record.streamed else None
    sent = record.time + record.decision_seconds
    return Activity(
        key=record.decision_id,
        start=sent,
        first=None if first is None else max(sent, record.time + first),
        end=max(sent, record.time + record.seconds),
        prompt_tokens=prompt_tokens,
        completion_tokens=record.completion_tokens,
    )
