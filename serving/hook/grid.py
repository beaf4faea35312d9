"""The carbon intensity that decisions use, with its age and the step that it came from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from envs.carbon.intensity import CarbonReading, Kind
from envs.requests.moment import Moment
from serving.settings.hook import MAX_AGE_SECONDS

# The state of the grid is cached for this time: its features change more slowly.
_CACHE_SECONDS = 1.0


class IntensityView(Protocol):
    """Carbon intensity of one grid: a trace, or the outlook of a live source."""

    @property
    def kind(self) -> Kind:
        """Signal and scope of all its intensities."""

    def reading(self, now: float, max_age_seconds: float) -> CarbonReading:
        """Return the reading for `now` from the earliest of `STEPS` that has one; never raises."""

    def places(self, reading: CarbonReading) -> tuple[float, float]:
        """Return a reading's `Moment.recent_place` and `Moment.coming_place`."""


@dataclass(frozen=True)
class GridState:
    """The grid at one time.

    Attributes:
        reading: the best available carbon intensity, with its age and step.
        moment: the same as context of one request, with no other request in flight.
    """

    reading: CarbonReading
    moment: Moment


class Grid:
    """Current state of a grid.

    Args:
        view: the carbon intensity at the start.
        now: clock, Unix seconds; an experiment may start it at another time.
        path: file that `view` was read from; `load` reads it again when it changes. None if
            there is no such file.
        load: reads the file.
        max_age_seconds: a last known reading older than this is replaced by the mean, so
            decisions never use stale readings.
    """

    def __init__(
        self,
        view: IntensityView,
        now: Callable[[], float],
        path: Path | None = None,
        load: Callable[[Path], IntensityView] | None = None,
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        self.view = view
        self._now = now
        self._path = path
        self._load = load
        self._max_age = max_age_seconds
        # None makes the first `refresh` read the file: it may have changed since `view` was read.
        self._stamp: tuple[int, int] | None = None
        self._state: GridState | None = None
        self._state_time = 0.0

    def current(self) -> GridState:
        """The grid now; never raises. Returns the same object for up to `_CACHE_SECONDS`."""
        now = self._now()
        if self._state is None or not 0 <= now - self._state_time < _CACHE_SECONDS:
            self._state, self._state_time = self._state_at(now), now
        return self._state

    def _state_at(self, now: float) -> GridState:
        reading = self.view.reading(now, self._max_age)
        recent, coming = self.view.places(reading)
        moment = Moment(
            in_flight=np.array([0]),
            g_per_kwh=np.array([reading.g_per_kwh]),
            recent_place=np.array([recent]),
            coming_place=np.array([coming]),
            time=np.array([now]),
        )
        return GridState(reading, moment)

    def refresh(self) -> None:
        """Read the file again if it has changed.

        Raises:
            SproutError, OSError: the file cannot be read; the old view stays in use.
        """
        stamp = self._file_stamp()
        if self._path is None or self._load is None or stamp in (None, self._stamp):
            return
        self._stamp = stamp
        self.view = self._load(self._path)
        self._state = None

    def _file_stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat() if self._path else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size) if stat else None
