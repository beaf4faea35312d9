"""A thread that keeps an outlook up to date from a live source."""

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import tenacity

from envs.carbon.intensity import HOUR_SECONDS, RECENT_HOURS
from envs.carbon.live.outlook import open_outlook
from envs.carbon.live.source import MalformedError, Point, Source
from envs.http_client import FetchError

# Wait after a failed try: doubling, with jitter, so that replicas do not ask all at once.
FIRST_SECONDS, LONGEST_SECONDS = 5.0, 600.0
# Least wait after a refusal (401, 403, 404), which only a person can resolve.
REFUSED_SECONDS = 600.0
FORECAST_SECONDS = HOUR_SECONDS
# Services publish a value some time after its period's end: fixed and random part of the wait.
LATE_SECONDS, SPREAD_SECONDS = 20.0, 40.0
# Longest wait that a service can impose with Retry-After.
MOST_RETRY_AFTER_SECONDS = 6 * HOUR_SECONDS
CLOSE_SECONDS = 2.0
Count = Callable[[str, str], None]
log = logging.getLogger("sprout")


class _NothingNewError(FetchError):
    """The source has no reading for the present yet."""


class Feed(threading.Thread):
    """Thread that asks a source whenever a reading is due, and writes the outlook to a file.

    The feed starts from the file's outlook if that is of the same service, zone and kind. So the
    last reading survives restarts, and ages.

    Args:
        source: service to ask.
        path: path of the cached outlook.
        mean_g_per_kwh: mean of the zone's year, gCO2e/kWh.
        count: called after each try with "readings" or "forecast", and the result.
        now: clock; returns Unix seconds.
        first_seconds: wait after the first failure, s.

    Attributes:
        outlook: the current outlook.
    """

    def __init__(
        self,
        source: Source,
        path: Path,
        mean_g_per_kwh: float,
        count: Count = lambda what, result: None,
        now: Callable[[], float] = time.time,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        super().__init__(name="sprout-intensity", daemon=True)
        self._source = source
        self._path = path
        self._count = count
        self._now = now
        self._ended = threading.Event()
        self._problems: dict[str, str | None] = {}
        self._forecast_due = 0.0
        self._backoff = tenacity.wait_exponential_jitter(
            initial=first_seconds, max=LONGEST_SECONDS, jitter=first_seconds
        )
        self.outlook = open_outlook(source, path, mean_g_per_kwh)

    def run(self) -> None:
        """Ask the source again and again until `close` is called."""
        self._store()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(FetchError),
            stop=tenacity.stop_when_event_set(self._ended),
            wait=self._patience,
            sleep=tenacity.sleep_using_event(self._ended),
        )
        while not self._ended.is_set():
            try:
                retrying(self.once)
            except tenacity.RetryError:
                return
            except Exception:
                # Whatever a source does, the current outlook stays, and ages.
                log.exception("the source of carbon intensity failed; it will be asked again")
                self._ended.wait(LONGEST_SECONDS)
                continue
            self._ended.wait(self.due_seconds())

    def close(self) -> None:
        """End the thread; wait at most `CLOSE_SECONDS` for an answer in flight."""
        self._ended.set()
        if self.is_alive():
            self.join(CLOSE_SECONDS)

    def once(self) -> None:
        """Fetch new readings, and a forecast if one is due, and store them.

        Raises:
            FetchError: readings cannot be fetched, or there is still no value for the present.
        """
        if self._ended.is_set():
            return
        now = self._now()
        if now >= self._forecast_due:
            self._update_forecast(now)
        last_end = self.outlook.readings[-1].end if self.outlook.readings else 0.0
        since = max(last_end, now - RECENT_HOURS * HOUR_SECONDS)
        readings = self._fetch("readings", lambda: self._source.readings(since, now))
        self._store(readings=readings)
        if self.outlook.reading(self._now(), 0.0).step not in ("live", "forecast"):
            raise _NothingNewError(f"{self._source.name}: no reading for the present yet")

    def due_seconds(self) -> float:
        """Return the time until the source should be asked again, s."""
        now = self._now()
        reading = self.outlook.reading(now, 0.0)
        ends = [p.end for p in (*self.outlook.readings, *self.outlook.forecasts) if p.end > now]
        wait = min(ends, default=now) - now if reading.step == "live" else 0.0
        # A service that publishes late is asked once per period, when the next value may be ready.
        period = self.outlook.readings[-1].seconds if self.outlook.readings else FORECAST_SECONDS
        spread = min(SPREAD_SECONDS, period / 10)
        late = min(LATE_SECONDS, period / 10)
        return max(wait, min(period, 300.0) / 2) + late + random.uniform(0, spread)

    def _update_forecast(self, now: float) -> None:
        try:
            forecasts = self._fetch("forecast", lambda: self._source.forecast(now))
        except FetchError as error:
            wait = max(LONGEST_SECONDS, _retry_after(error))
            self._forecast_due = now + (FORECAST_SECONDS if _refused(error) else wait)
            return
        self._forecast_due = now + FORECAST_SECONDS
        self._store(forecasts=forecasts)

    def _fetch(self, what: str, fetch: Callable[[], list[Point]]) -> list[Point]:
        """Return the fetched points; count and log the result."""
        try:
            points = fetch()
        except FetchError as error:
            result = "malformed" if isinstance(error, MalformedError) else "unreachable"
            result = str(error.status) if error.status else result
            self._count(what, result)
            self._report(what, result, str(error))
            raise
        self._count(what, "ok")
        self._report(what)
        return points

    def _store(
        self, readings: list[Point] | None = None, forecasts: list[Point] | None = None
    ) -> None:
        self.outlook = self.outlook.with_points(self._now(), readings or (), forecasts)
        try:
            self.outlook.write(self._path)
        except OSError as error:
            self._report("file", str(error.errno), f"{self._path}: {error.strerror}")
        else:
            self._report("file")

    def _report(self, what: str, kind: str | None = None, problem: str = "") -> None:
        """Log a problem when its kind changes, and log its end; do not repeat a lasting problem.

        Args:
            what: "readings", "forecast" or "file".
            kind: kind of the problem; None if there is none.
            problem: description for the log.
        """
        if kind == self._problems.get(what):
            return
        self._problems[what] = kind
        if kind is not None:
            log.error("carbon intensity, %s: %s; the next best value is used", what, problem)
        else:
            log.warning("carbon intensity, %s: the problem is over", what)

    def _patience(self, state: tenacity.RetryCallState) -> float:
        """Return the wait before the next try, s."""
        error = state.outcome.exception() if state.outcome is not None else None
        wait = self._backoff(state)
        if isinstance(error, FetchError):
            wait = max(wait, _retry_after(error))
            if _refused(error):
                wait = max(wait, REFUSED_SECONDS)
        return wait


def _retry_after(error: FetchError) -> float:
    return min(error.retry_after_seconds or 0.0, MOST_RETRY_AFTER_SECONDS)


def _refused(error: FetchError) -> bool:
    return error.status in (401, 403, 404)
