"""The server's measured joules, and each recorded request's share of them.

Beside the workers, from their records alone: what they saw of a request (sent, first token, last
token, counts) is enough to split a meter's windows. Until then, and where there is no meter, a
request keeps the estimate that it was recorded with.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from envs.attribution import Attribution, Share
from envs.coefficients import read_coefficients
from envs.energy import Meter, Windows
from envs.errors import MeterError
from envs.meters.choose import MEASURING, choose_meter
from envs.work import KINDS, Activity
from serving.config import HookConfig
from serving.estimate import site

WINDOW_SECONDS = 1.0
# Splitting many windows at once costs less than one by one.
SETTLE_SECONDS = 10.0
_CHARACTERS_PER_TOKEN = 4
log = logging.getLogger("sprout")


class Accounts:
    """Call `read` and `settle` about twice a second, and `ended` with records between them.

    Args:
        urls: of the servers that are metered.

    Raises:
        MeterError, ConfigError, DataError: a meter was asked for and cannot be used, or the
            coefficients are wrong. Where none was asked for ("auto"), there is then none.
    """

    def __init__(
        self, config: HookConfig, urls: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._site = site(config)
        self._windows: Windows | None = None
        self._attribution = _attribution(config)
        self._about: dict[str, tuple[str, float | None]] = {}
        self._read = self._settled = 0.0
        self._counted = self._idle_counted = 0.0
        self._problem: str | None = None
        meter = _meter(config, urls)
        self._up = Gauge("sprout_meter_up", "Whether the meter can be read", registry=registry)
        info = Gauge(
            "sprout_meter_info",
            "1 for the meter in use",
            ("method", "source", "idle"),
            registry=registry,
        )
        if meter is not None:
            self._windows = Windows(meter)
            info.labels(meter.method, meter.source, config.idle).set(1)
        self._method = meter.method if meter is not None else "estimated"
        self._joules = Counter(
            "sprout_meter_joules", "Energy of the server, of whole windows", registry=registry
        )
        self._idle = Counter(
            "sprout_idle_joules", "Of it, what no request was given", registry=registry
        )
        self._given = Counter(
            "sprout_attributed_joules",
            "Of it, what requests were given",
            ("directive",),
            registry=registry,
        )
        self._rates = Gauge(
            "sprout_work_joules", "Energy of a unit of work", ("kind",), registry=registry
        )

    @property
    def measuring(self) -> bool:
        """Whether there is a meter."""
        return self._windows is not None

    def ended(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Requests have been recorded."""
        if self._windows is None:
            return
        for row in rows:
            if (activity := _activity(row)) is not None:
                self._attribution.ended(activity)
                applied = row.get("directive") if row.get("applied", True) else "none"
                self._about[activity.key] = str(applied), row.get("intensity_g_per_kwh")

    def read(self) -> None:
        """Read the meter, where it is time."""
        now = time.monotonic()
        if self._windows is None or now - self._read < WINDOW_SECONDS:
            return
        self._read = now
        if (reading := self._windows.read()) is not None:
            self._attribution.window(reading)
        self._say(self._windows.problem)

    def settle(self, until: float) -> list[dict[str, Any]]:
        """What is now known better of records; every `SETTLE_SECONDS`.

        Args:
            until: all requests that came before, in Unix seconds, have been given to `ended`.
        """
        now = time.monotonic()
        if self._windows is None or now - self._settled < SETTLE_SECONDS:
            return []
        self._settled = now
        return self._amended(self._attribution.settle(until))

    def close(self) -> list[dict[str, Any]]:
        """What is still to be said, at the end."""
        return self._amended(self._attribution.settle(time.time())) if self.measuring else []

    def _amended(self, shares: Sequence[Share]) -> list[dict[str, Any]]:
        found, attribution = [], self._attribution
        for share in shares:
            directive, intensity = self._about.pop(share.key, ("none", None))
            self._given.labels(directive).inc(share.joules)
            if share.covered <= 0:
                # No window of it: its own estimate is as good.
                continue
            joules = share.joules + share.unmetered_joules
            attributed = share.method == "attributed" and self._method == "measured"
            row = {
                "decision_id": share.key,
                "energy_joules": joules,
                "energy_method": "attributed" if attributed else "estimated",
                "energy_error_joules": share.error_joules,
            }
            if intensity is not None:
                row["grams"] = self._site.grams(joules, share.device_seconds, intensity)
            found.append(row)
        # Counters of the whole follow the settled windows.
        self._joules.inc(max(0.0, attribution.measured_joules - self._counted))
        self._counted = max(self._counted, attribution.measured_joules)
        self._idle.inc(max(0.0, attribution.idle_joules - self._idle_counted))
        self._idle_counted = max(self._idle_counted, attribution.idle_joules)
        if attribution.coefficients is not None:
            for kind, value in zip(KINDS, attribution.coefficients.values, strict=True):
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


def _meter(config: HookConfig, urls: Sequence[str]) -> Meter | None:
    if config.meter == "none":
        return None
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


def _activity(row: Mapping[str, Any]) -> Activity | None:
    """What the server did for a record's request; None if nothing is known of it."""
    sent, seconds = float(row["time"]), float(row["seconds"])
    made, read = row.get("completion_tokens"), row.get("prompt_tokens")
    if made is None or not row.get("status"):
        return None
    if read is None:
        read = int(row.get("characters") or 0) // _CHARACTERS_PER_TOKEN
    first = row.get("seconds_first") if row.get("streamed") else None
    begun = sent + float(row.get("decision_seconds") or 0.0)
    return Activity(
        str(row["decision_id"]),
        begun,
        None if first is None else max(begun, sent + float(first)),
        max(begun, sent + seconds),
        int(read),
        int(made),
    )
