"""Keeps an outlook up to date from a live source, in a thread of its own."""

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

# Between tries that fail: doubling, with jitter, so that replicas do not ask all at once.
FIRST_SECONDS, LONGEST_SECONDS = 5.0, 600.0
# What a refusal (401, 403, 404) needs is a person.
REFUSED_SECONDS = 600.0
FORECAST_SECONDS = HOUR_SECONDS
# After a span's end services need a while to publish the next.
LATE_SECONDS, SPREAD_SECONDS = 20.0, 40.0
# However long a service asks to be left alone.
MOST_RETRY_AFTER_SECONDS = 6 * HOUR_SECONDS
CLOSE_SECONDS = 2.0
Count = Callable[[str, str], None]
log = logging.getLogger("sprout")


class _NothingNewError(FetchError):
    """The source has no reading of now yet."""


class Feed(threading.Thread):
    """Asks when a reading is due, not before; writes what is known to a file.

    What the file knew of the same zone and kind is where it begins: the last reading outlives
    restarts, and ages.

    Args:
        count: called with ("readings" or "forecast", how it went) after each try.
        now: the clock; Unix seconds.
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
        """Until `close`."""
        self._keep()
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
                # Whatever a source does, what is known stays and ages.
                log.exception("the source of carbon intensity failed; it is asked again")
                self._ended.wait(LONGEST_SECONDS)
                continue
            self._ended.wait(self.due_seconds())

    def close(self) -> None:
        """End; an answer that is under way is waited for, but not for long."""
        self._ended.set()
        if self.is_alive():
            self.join(CLOSE_SECONDS)

    def once(self) -> None:
        """Ask for readings, and for a forecast where one is due; keep what came.

        Raises:
            FetchError: there is nothing new of now, for whatever reason.
        """
        if self._ended.is_set():
            return
        now = self._now()
        if now >= self._forecast_due:
            self._ask_forecast(now)
        last = self.outlook.readings[-1].end if self.outlook.readings else 0.0
        since = max(last, now - RECENT_HOURS * HOUR_SECONDS)
        found = self._asked("readings", lambda: self._source.readings(since, now))
        self._keep(readings=found)
        if self.outlook.reading(self._now(), 0.0).step not in ("live", "forecast"):
            raise _NothingNewError(f"{self._source.name}: no reading of now yet")

    def due_seconds(self) -> float:
        """How long what is known will do."""
        now = self._now()
        reading = self.outlook.reading(now, 0.0)
        ends = [p.end for p in (*self.outlook.readings, *self.outlook.forecasts) if p.end > now]
        wait = min(ends, default=now) - now if reading.step == "live" else 0.0
        # Services that publish late are asked once a span, when the next one may be there.
        span = self.outlook.readings[-1].seconds if self.outlook.readings else FORECAST_SECONDS
        spread = min(SPREAD_SECONDS, span / 10)
        late = min(LATE_SECONDS, span / 10)
        return max(wait, min(span, 300.0) / 2) + late + random.uniform(0, spread)

    def _ask_forecast(self, now: float) -> None:
        try:
            found = self._asked("forecast", lambda: self._source.forecast(now))
        except FetchError as error:
            wait = max(LONGEST_SECONDS, _asked_to_wait(error))
            self._forecast_due = now + (FORECAST_SECONDS if _refused(error) else wait)
            return
        self._forecast_due = now + FORECAST_SECONDS
        self._keep(forecasts=found)

    def _asked(self, what: str, ask: Callable[[], list[Point]]) -> list[Point]:
        try:
            found = ask()
        except FetchError as error:
            result = "malformed" if isinstance(error, MalformedError) else "unreachable"
            result = str(error.status) if error.status else result
            self._count(what, result)
            self._tell(what, result, str(error))
            raise
        self._count(what, "ok")
        self._tell(what)
        return found

    def _keep(
        self, readings: list[Point] | None = None, forecasts: list[Point] | None = None
    ) -> None:
        self.outlook = self.outlook.with_points(self._now(), readings or (), forecasts)
        try:
            self.outlook.write(self._path)
        except OSError as error:
            self._tell("file", str(error.errno), f"{self._path}: {error.strerror}")
        else:
            self._tell("file")

    def _tell(self, what: str, kind: str | None = None, problem: str = "") -> None:
        """Say what goes wrong, and that it is over; a kind of problem once, whenever it was."""
        if kind == self._problems.get(what):
            return
        self._problems[what] = kind
        if kind is not None:
            log.error("%s of carbon intensity: %s; the next best is used", what, problem)
        else:
            log.warning("%s of carbon intensity: all is well again", what)

    def _patience(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        wait = self._backoff(state)
        if isinstance(error, FetchError):
            wait = max(wait, _asked_to_wait(error))
            if _refused(error):
                wait = max(wait, REFUSED_SECONDS)
        return wait


def _asked_to_wait(error: FetchError) -> float:
    return min(error.retry_after_seconds or 0.0, MOST_RETRY_AFTER_SECONDS)


def _refused(error: FetchError) -> bool:
    return error.status in (401, 403, 404)
