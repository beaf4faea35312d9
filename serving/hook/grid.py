"""The carbon intensity that decisions use, with its age and the step that it came from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from envs.carbon.intensity import CarbonReading, Kind
from envs.requests.moment import Moment
from serving.settings.hook import MAX_AGE_SECONDS

# The state of the grid is cached for this long: features of grid and hour change more slowly.
_CACHE_SECONDS = 1.0


class IntensityView(Protocol):
    """Carbon intensity of one grid: a trace, or the outlook of a live source."""

    @property
    def kind(self) -> Kind:
        """Signal and scope of all its figures."""

    def reading(self, now: float, max_age_seconds: float) -> CarbonReading:
        """The best reading for `now`, first by `STEPS`; never raises."""

    def places(self, reading: CarbonReading) -> tuple[float, float]:
        """Place of a reading in the trailing day's range and among the coming day's hours."""


@dataclass(frozen=True)
class GridState:
    """The grid at one time.

    Attributes:
        reading: the best one there is, with its age and its step.
        moment: context of one request now, with no load.
    """

    reading: CarbonReading
    moment: Moment


class Grid:
    """Current state of a grid.

    Args:
        now: clock of the experiment, Unix seconds.
        path: file that `view` was read from; `load` reads it again when it changes. None if
            there is no such file.
        max_age_seconds: a last known reading that is older gives way to the mean, so decisions
            never use stale readings.
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
        # None makes the first `refresh` read the file: it may have changed since it was read.
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
            SproutError, OSError: it cannot be read; the state stays as it was.
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
