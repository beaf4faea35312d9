"""The carbon intensity that decisions use, with its age, from a trace kept up to date."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.carbon import RECENT_HOURS, CarbonReading, IntensityTrace
from envs.carbon_reader import read_trace
from serving.config import MAX_AGE_SECONDS

# Nothing that decisions see of the grid or the hour changes sooner.
_SAME_SECONDS = 1.0


@dataclass(frozen=True)
class Seen:
    """What a decision sees of the grid.

    Attributes:
        reading: the last known, with its age.
        g_per_kwh: what the policy is told, shape (1,): the reading's, or, where that is too
            old, the lowest of the day before it. The policy then spends least quality: it
            must not act on a dirty hour that may have passed.
        place: of that in the trailing day's range, shape (1,).
        time: now, Unix seconds, shape (1,).
    """

    reading: CarbonReading
    g_per_kwh: NDArray[np.float64]
    place: NDArray[np.float64]
    time: NDArray[np.float64]


class Grid:
    """Readings of a trace.

    Args:
        path: the trace's file, read anew when it changes; None where it never does.
        now: Unix seconds of the clock that the trace is read by.
    """

    def __init__(
        self,
        trace: IntensityTrace,
        now: Callable[[], float],
        path: Path | None = None,
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        self.trace = trace
        self._now = now
        self._path = path
        self._max_age = max_age_seconds
        self._stamp = self._written()
        self._last: Seen | None = None
        self._looked = 0.0

    def see(self) -> Seen:
        """The grid now; never raises. The same object for up to `_SAME_SECONDS`."""
        now = self._now()
        if self._last is None or not 0 <= now - self._looked < _SAME_SECONDS:
            self._last, self._looked = self._look(now), now
        return self._last

    def _look(self, now: float) -> Seen:
        reading = self.trace.reading(now)
        if reading.age_seconds > self._max_age:
            lowest = self.trace.g_per_kwh[-RECENT_HOURS:].min(keepdims=True)
            return Seen(reading, lowest, np.zeros(1), np.array([now]))
        place = self.trace.recent_place(np.array([reading.time]))
        return Seen(reading, np.array([reading.g_per_kwh]), place, np.array([now]))

    def refresh(self) -> None:
        """Read the trace anew if its file has changed.

        Raises:
            SproutError, OSError: it cannot be read; the old one stays.
        """
        written = self._written()
        if self._path is None or written is None or written == self._stamp:
            return
        self._stamp = written
        self.trace = read_trace(self._path, self.trace.zone)
        self._last = None

    def _written(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat() if self._path else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size) if stat else None
