"""The carbon intensity that decisions use, with its age and the step that it came from."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from envs.carbon.intensity import CarbonReading, IntensityTrace, Kind, iso
from envs.errors import SproutError
from envs.plausible import LEAST_MEAN_G_PER_KWH
from envs.requests.moment import Moment
from serving.file_stamp import FileStamp, file_stamp
from serving.settings.hook import MAX_AGE_SECONDS

# The state of the grid is cached for this time: its features change more slowly.
_CACHE_SECONDS = 1.0
# A trace that ended longer ago says nothing about today, days.
OUTDATED_DAYS = 31.0
# An intensity that could not be read is tried again this often, s.
RETRY_SECONDS = 2.0


class IntensityView(Protocol):
    """Carbon intensity of one grid: a trace, or the outlook of a live source."""

    @property
    def kind(self) -> Kind:
        """Signal and scope of all its intensities."""

    @property
    def mean_g_per_kwh(self) -> float:
        """Mean over the trace, or the zone's stated yearly mean, gCO2e/kWh."""

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

    Attributes:
        view: the carbon intensity, as read last.
        problem: why no request is to be steered by it; None if it can be used.
    """

    def __init__(
        self,
        view: IntensityView,
        now: Callable[[], float],
        path: Path | None = None,
        load: Callable[[Path], IntensityView] | None = None,
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        self._implausible: str | None = None
        self.view = self._checked(view)
        self._now = now
        self._path = path
        self._load = load
        self._max_age = max_age_seconds
        # None makes the first `refresh` read the file: it may have changed since `view` was read.
        self._stamp: FileStamp | None = None
        self._failed_stamp: FileStamp | None = None
        self._broken: str | None = None
        self._state: GridState | None = None
        self._state_time = 0.0

    @property
    def kind(self) -> Kind:
        """Signal and scope of its intensities."""
        return self.view.kind

    @property
    def mean_g_per_kwh(self) -> float:
        """Mean intensity, gCO2e/kWh."""
        return self.view.mean_g_per_kwh

    @property
    def problem(self) -> str | None:
        """See the class."""
        return self._broken or self._implausible or self._outdated()

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

        A file that is wrong twice in a row, and not just half written, becomes the `problem`.

        Raises:
            SproutError, OSError: the file cannot be read; the old view stays in use.
        """
        stamp = file_stamp(self._path)
        if self._path is None or self._load is None or stamp in (None, self._stamp):
            return
        try:
            self.view = self._checked(self._load(self._path))
        except (SproutError, OSError) as error:
            if stamp != self._failed_stamp:
                self._failed_stamp = stamp
                return
            self._stamp, self._broken = stamp, str(error)
            raise
        self._stamp, self._broken, self._state = stamp, None, None

    def _checked(self, view: IntensityView) -> IntensityView:
        """Note whether a view is most likely in another unit; return it."""
        self._implausible = None
        if isinstance(view, IntensityTrace) and view.mean_g_per_kwh < LEAST_MEAN_G_PER_KWH:
            self._implausible = (
                f"--intensity {view.source}: a mean of {view.mean_g_per_kwh:.3g} gCO2e/kWh is most "
                "likely in another unit; give grams per kWh (1 kg/kWh = 1000 g/kWh), or, if the "
                "grid does run on hydropower alone, a constant number"
            )
        return view

    def _outdated(self) -> str | None:
        """Return that the trace ended long ago, if it did."""
        if not isinstance(self.view, IntensityTrace):
            return None
        days = (self._now() - self.view.end) / 86400
        if days < OUTDATED_DAYS:
            return None
        return (
            f"--intensity {self.view.source} ends at {iso(self.view.end)}, {days:.0f} days ago: "
            "give a current trace, a live source, or a number of gCO2e/kWh"
        )


class UnknownGrid:
    """A grid whose carbon intensity could not be read at a restart: until it can, none is known.

    Args:
        problem: why it could not be read.
        make: makes the grid; it raises SproutError while it cannot.
    """

    def __init__(self, problem: str, make: Callable[[], Grid]) -> None:
        self._problem = problem
        self._make = make
        self._grid: Grid | None = None
        self._next_try = time.monotonic() + RETRY_SECONDS

    @property
    def kind(self) -> Kind | None:
        """Signal and scope of its intensities; None while unknown."""
        return None if self._grid is None else self._grid.kind

    @property
    def mean_g_per_kwh(self) -> float | None:
        """Mean intensity, gCO2e/kWh; None while unknown."""
        return None if self._grid is None else self._grid.mean_g_per_kwh

    @property
    def problem(self) -> str | None:
        """Why no request is to be steered by it; None if it can be used."""
        return self._problem if self._grid is None else self._grid.problem

    def current(self) -> GridState | None:
        """The grid now; None while unknown."""
        return None if self._grid is None else self._grid.current()

    def refresh(self) -> None:
        """Try again to read the carbon intensity.

        Raises:
            SproutError, OSError: see `Grid.refresh`.
        """
        if self._grid is not None:
            self._grid.refresh()
        elif time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + RETRY_SECONDS
            try:
                self._grid = self._make()
            except SproutError as error:
                self._problem = str(error)
