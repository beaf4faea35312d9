"""The carbon intensity that decisions use, with its age and how it was come by."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from envs.arrays import Float64Array
from envs.carbon.intensity import CarbonReading, Kind
from serving.settings.hook import MAX_AGE_SECONDS

# Nothing that decisions see of the grid or the hour changes sooner.
_SAME_SECONDS = 1.0


class IntensityView(Protocol):
    """What is known of a grid: a trace, or what a live source has said."""

    @property
    def kind(self) -> Kind:
        """Of all its figures."""

    def reading(self, now: float, max_age_seconds: float) -> CarbonReading:
        """The best there is for now, by `envs.carbon.intensity.STEPS`; never raises."""

    def places(self, reading: CarbonReading) -> tuple[float, float]:
        """Where a reading lies in the trailing day, and among the coming day's hours."""


@dataclass(frozen=True)
class Seen:
    """What a decision sees of the grid.

    Attributes:
        reading: the best there is, with its age and its step.
        g_per_kwh: the reading's, shape (1,).
        place: of it in the trailing day's range, shape (1,).
        coming: share of the coming day's hours that are cleaner, shape (1,).
        time: now, Unix seconds, shape (1,).
    """

    reading: CarbonReading
    g_per_kwh: Float64Array
    place: Float64Array
    coming: Float64Array
    time: Float64Array


class Grid:
    """Readings of what is known.

    Args:
        now: Unix seconds of the clock that they are read by.
        path: the file that it is known from, read anew by `load` when it changes; None where
            it never does.
        max_age_seconds: a last known reading that is older gives way to the mean: the policy
            must not act on an hour that has passed long ago.
    """

    def __init__(
        self,
        known: IntensityView,
        now: Callable[[], float],
        path: Path | None = None,
        load: Callable[[Path], IntensityView] | None = None,
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        self.known = known
        self._now = now
        self._path = path
        self._load = load
        self._max_age = max_age_seconds
        # Read once more at the first look: it may have been written since it was read.
        self._stamp: tuple[int, int] | None = None
        self._last: Seen | None = None
        self._looked = 0.0

    def see(self) -> Seen:
        """The grid now; never raises. The same object for up to `_SAME_SECONDS`."""
        now = self._now()
        if self._last is None or not 0 <= now - self._looked < _SAME_SECONDS:
            self._last, self._looked = self._look(now), now
        return self._last

    def _look(self, now: float) -> Seen:
        reading = self.known.reading(now, self._max_age)
        place, coming = self.known.places(reading)
        columns = (np.array([value]) for value in (reading.g_per_kwh, place, coming, now))
        return Seen(reading, *columns)

    def refresh(self) -> None:
        """Read the file anew if it has changed.

        Raises:
            SproutError, OSError: it cannot be read; what was known stays.
        """
        written = self._written()
        if self._path is None or self._load is None or written in (None, self._stamp):
            return
        self._stamp = written
        self.known = self._load(self._path)
        self._last = None

    def _written(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat() if self._path else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size) if stat else None
