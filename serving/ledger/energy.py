"""The server's measured joules, and each recorded request's share of them.

Beside the workers, from their records alone: what they saw of a request (sent, first token, last
token, counts) is enough to split a meter's windows. Until then, and where there is no meter, a
request keeps the estimate that it was recorded with.
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
from serving.ledger.estimate import footprint_model
from serving.ledger.record import Amendment, Record
from serving.settings.hook import HookConfig

WINDOW_SECONDS = 1.0
# Splitting many windows at once costs less than one by one.
SETTLE_SECONDS = 10.0
# Between tries to read a meter that cannot be read.
AGAIN_SECONDS = 30.0
_CHARACTERS_PER_TOKEN = 4
log = logging.getLogger("sprout")


class EnergyAccounts:
    """Call `read` and `settle` about twice a second, and `ended` with records between them.

    The meter is made once the gateway has started, and made anew while it cannot be read: no
    meter stops a start, or anything else.

    Args:
        urls: of the servers behind the hook; none where it is inside the server's process.

    Raises:
        ConfigError, DataError: the settings or the coefficients are wrong.
    """

    def __init__(
        self, config: HookConfig, urls: Sequence[str], registry: CollectorRegistry
    ) -> None:
        if len(urls) > 1 and config.meter not in ("auto", "none"):
            raise ConfigError(
                f"--meter {config.meter}: several upstreams do not share their batches, so their "
                "joules cannot be told apart; run a gateway for each"
            )
        self._config = config
        self._urls = urls
        self._site = footprint_model(config)
        self._attribution = _attribution(config)
        self._windows: WindowReader | None = None
        # Whether there may be a meter yet.
        self._open = _may_meter(config, urls)
        self._about: dict[str, tuple[str, float | None]] = {}
        self._read = self._settled = time.monotonic()
        self._well = self._tried = time.monotonic()
        self._counted = self._idle_counted = 0.0
        self._problem: str | None = None
        self._method = "estimated"
        self._up = Gauge("sprout_meter_up", "Whether the meter can be read", registry=registry)
        self._info = Gauge(
            "sprout_meter_info",
            "1 for the meter in use",
            ("method", "source", "idle"),
            registry=registry,
        )
        self._joules = Counter(
            "sprout_meter_joules", "Energy of the server, of whole windows", registry=registry
        )
        self._idle = Counter(
            "sprout_idle_joules", "Of it, what no request was given", registry=registry
        )
        self._given = Counter(
            "sprout_attributed_joules",
            "Of it, what requests that are over were given",
            ("directive",),
            registry=registry,
        )
        self._rates = Gauge(
            "sprout_work_joules", "Energy of a unit of work", ("kind",), registry=registry
        )

    def ended(self, records: Sequence[Record]) -> None:
        """Take over requests that have been recorded."""
        if self._windows is None:
            return
        for record in records:
            activity = _activity(record)
            # What ended before all windows that wait keeps its estimate: a journal that a day
            # without its database has left.
            if activity is None or activity.end < self._attribution.open_since:
                continue
            self._attribution.ended(activity)
            applied = record.directive if record.applied else "none"
            self._about[activity.key] = applied, record.intensity_g_per_kwh

    def read(self) -> None:
        """Read the meter, where it is time."""
        now = time.monotonic()
        if now - self._read < WINDOW_SECONDS:
            return
        self._read = now
        problem: str | None
        try:
            if self._windows is None:
                self._make(now)
                return
            if (reading := self._windows.read()) is not None:
                self._attribution.window(reading)
            problem = self._windows.problem
        except Exception as error:
            # Whatever a library does, records and settings go on.
            problem = f"{type(error).__name__}: {error}"
        self._say(problem)
        if problem is None:
            self._well = now
        elif now - self._well > AGAIN_SECONDS:
            # A server that was started again has another process, an exporter other series.
            self._windows = None
            self._tried = -AGAIN_SECONDS

    def settle(self, until: float) -> list[Amendment]:
        """What is now known better of records; every `SETTLE_SECONDS`.

        Args:
            until: all requests that came before, in Unix seconds, have been given to `ended`.
        """
        now = time.monotonic()
        if now - self._settled < SETTLE_SECONDS:
            return []
        self._settled = now
        return self._amended(self._attribution.settle(until))

    def close(self) -> list[Amendment]:
        """What is still to be said, at the end."""
        if self._windows is not None and (reading := self._windows.read()) is not None:
            self._attribution.window(reading)
        return self._amended(self._attribution.settle(float("inf")))

    def _make(self, now: float) -> None:
        if not self._open or (now - self._tried < AGAIN_SECONDS and self._problem is not None):
            return
        self._tried = now
        try:
            meter = _meter(self._config, self._urls)
        except MeterError as error:
            self._say(str(error))
            return
        if meter is None:
            self._open = False
            return
        self._windows, self._method, self._well = WindowReader(meter), meter.method, now
        self._windows.read()
        self._info.clear()
        self._info.labels(meter.method, meter.source, self._config.idle).set(1)
        self._say(None)

    def _amended(self, shares: Sequence[Share]) -> list[Amendment]:
        found, attribution = [], self._attribution
        for share in shares:
            directive, intensity = self._about.pop(share.key, ("none", None))
            self._given.labels(directive).inc(share.joules)
            if share.covered <= 0:
                # No window of it: its own estimate is as good.
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
                changes["grams"] = self._site.grams(joules, seconds, intensity)
            found.append(Amendment(share.key, changes))
        # Counters of the whole follow the settled windows.
        self._joules.inc(max(0.0, attribution.measured_joules - self._counted))
        self._counted = max(self._counted, attribution.measured_joules)
        self._idle.inc(max(0.0, attribution.idle_joules - self._idle_counted))
        self._idle_counted = max(self._idle_counted, attribution.idle_joules)
        if attribution.prices.fit is not None:
            for kind, value in zip(KINDS, attribution.prices.fit.values, strict=True):
                self._rates.labels(kind).set(float(value))
        return found

    def _say(self, problem: str | None) -> None:
        self._up.set(problem is None)
        if problem != self._problem:
            self._problem = problem
            if problem is not None:
                log.error("the meter: %s; requests keep their estimates", problem)
            else:
                log.warning("the meter can be read again")


def _may_meter(config: HookConfig, urls: Sequence[str]) -> bool:
    """Whether a meter is wanted, or may be taken without being asked for.

    By itself only that of one server on this machine: what this machine's devices use has
    nothing to do with a server elsewhere. Inside another server's process it must be named.
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
    """The server's work for a record's request; None if nothing is known of it."""
    if record.completion_tokens is None or not record.status:
        return None
    prompt_tokens = record.prompt_tokens
    if prompt_tokens is None:
        prompt_tokens = record.characters // _CHARACTERS_PER_TOKEN
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
