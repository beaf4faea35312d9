"""Joules from watts: a thread reads a power and integrates it over time."""

import threading
import time
from collections.abc import Callable

from envs.errors import MeterError

# Power is interpolated linearly between readings, unless they are more periods apart than this.
_LOST_PERIODS = 5
# A meter that has not been asked for this long is probably no longer in use.
_FORGOTTEN_SECONDS = 60.0


class PowerIntegral:
    """Energy since the start: a power that is read every `period_seconds`, integrated.

    A background thread reads the power. It stops if nobody has asked for a minute, and starts again
    with the next question. After a gap in the readings the integral restarts at 0, like a counter
    that was reset: the energy used in the gap is not guessed.

    Args:
        read_watts: returns the power, W; raises MeterError if it cannot be read.
        period_seconds: time between two readings, s.

    Raises:
        MeterError: the power cannot be read.
    """

    def __init__(self, read_watts: Callable[[], float], period_seconds: float) -> None:
        self._read_watts = read_watts
        self._period = period_seconds
        self._lock = threading.Lock()
        self._joules = 0.0
        # Time (monotonic, s) and power (W) of the last reading.
        self._last: tuple[float, float] | None = None
        self._problem: MeterError | None = None
        self._last_query = time.monotonic()
        self._thread: threading.Thread | None = None
        self._sample()
        if self._problem is not None:
            raise self._problem
        self._ensure_thread()

    def joules(self) -> float:
        """Return the joules so far.

        Raises:
            MeterError: the power cannot be read.
        """
        self._last_query = time.monotonic()
        self._sample()
        self._ensure_thread()
        with self._lock:
            if self._problem is not None:
                raise self._problem
            return self._joules

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="sprout-power", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while time.monotonic() - self._last_query < _FORGOTTEN_SECONDS:
            time.sleep(self._period)
            self._sample()

    def _sample(self) -> None:
        try:
            watts, now = self._read_watts(), time.monotonic()
        except MeterError as error:
            with self._lock:
                self._problem = error
            return
        with self._lock:
            self._problem = None
            if self._last is not None:
                seconds = now - self._last[0]
                if seconds <= 0:
                    # Another thread has stored a later sample meanwhile.
                    return
                if seconds > _LOST_PERIODS * self._period:
                    self._joules = 0.0
                else:
                    self._joules += seconds * (watts + self._last[1]) / 2
            self._last = now, watts
