"""Joules from watts: a power reading, integrated over time by a thread."""

import threading
import time
from collections.abc import Callable

from envs.errors import MeterError

# Between two readings power is taken to go in a straight line; over so many periods it is not.
_LOST_PERIODS = 5


class Integral:
    """J since the start, of a power in W that is read every `period_seconds`.

    After a time without readings it begins anew at 0, as a counter that was reset does: what
    was used meanwhile is not made up.
    """

    def __init__(self, read_watts: Callable[[], float], period_seconds: float) -> None:
        self._read = read_watts
        self._period = period_seconds
        self._lock = threading.Lock()
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self._problem: MeterError | None = None
        self._stop = threading.Event()
        self._sample()
        if self._problem is not None:
            raise self._problem
        self._thread = threading.Thread(target=self._run, name="sprout-power", daemon=True)
        self._thread.start()

    def joules(self) -> float:
        """J so far.

        Raises:
            MeterError: the power cannot be read.
        """
        self._sample()
        with self._lock:
            if self._problem is not None:
                raise self._problem
            return self._joules

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self._sample()

    def _sample(self) -> None:
        try:
            watts, now = self._read(), time.monotonic()
        except MeterError as error:
            with self._lock:
                self._problem = error
            return
        with self._lock:
            self._problem = None
            if self._last is not None:
                seconds = now - self._last[0]
                if seconds <= 0:
                    # Two at once: the other one was later.
                    return
                if seconds > _LOST_PERIODS * self._period:
                    self._joules = 0.0
                else:
                    self._joules += seconds * (watts + self._last[1]) / 2
            self._last = now, watts
