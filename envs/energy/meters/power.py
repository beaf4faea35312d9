"""Joules from watts: a power reading, integrated over time by a thread."""

import threading
import time
from collections.abc import Callable

from envs.errors import MeterError

# Between two readings power is taken to go in a straight line; over so many periods it is not.
_LOST_PERIODS = 5
# Who has not asked for so long has most likely forgotten the meter.
_FORGOTTEN_SECONDS = 60.0


class PowerIntegral:
    """J since the start, of a power in W that is read every `period_seconds`.

    A thread reads it, until nobody has asked for a minute. After a time without readings it
    begins anew at 0, as a counter that was reset does: what was used meanwhile is not made up.
    """

    def __init__(self, read_watts: Callable[[], float], period_seconds: float) -> None:
        self._read = read_watts
        self._period = period_seconds
        self._lock = threading.Lock()
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self._problem: MeterError | None = None
        self._asked = time.monotonic()
        self._thread: threading.Thread | None = None
        self._sample()
        if self._problem is not None:
            raise self._problem
        self._watch()

    def joules(self) -> float:
        """J so far.

        Raises:
            MeterError: the power cannot be read.
        """
        self._asked = time.monotonic()
        self._sample()
        self._watch()
        with self._lock:
            if self._problem is not None:
                raise self._problem
            return self._joules

    def _watch(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="sprout-power", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while time.monotonic() - self._asked < _FORGOTTEN_SECONDS:
            time.sleep(self._period)
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
