"""Joules of pieces of work that may be shorter than the meter's tick."""

import time

from envs.energy.meter import Meter, Window, unavailable

# A counter that has not moved over so much work stands still: more of its ticks than chance
# can hide, and long enough for a server that waits for a busy processor.
_STILL_TICKS = 4
_STILL_SECONDS = 1.0


class CarriedWindows:
    """A meter's windows around pieces of work; one that it did not see is carried into the next.

    So one window may hold several pieces, all those since the counter last moved, and its joules
    are split among them by their work: none is lost, none is made up, and none has 0 J.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._seen_joules = self._seen_work = 0.0
        self._window: Window | None = None
        self._begun = self._carried_work = self._carried_seconds = 0.0

    @property
    def known(self) -> float | None:
        """J a unit of work in all windows so far; None before the first."""
        return self._seen_joules / self._seen_work if self._seen_work else None

    def begin(self) -> None:
        """A piece of work begins.

        Raises:
            MeterError: the counter cannot be read.
        """
        self._window = self._window or Window(self.meter)
        self._begun = time.monotonic()

    def end(self, work: float) -> float | None:
        """The piece that began last has ended.

        Args:
            work: how much it was, above 0, in any unit that pieces have in common.

        Returns:
            J a unit of work, of this piece and of those carried; None where the counter has not
            moved yet, and this piece is carried too.

        Raises:
            MeterError: the counter stands still, fell, or cannot be read.
            UnitError: the window's power is absurd.
        """
        assert self._window is not None
        self._carried_seconds += time.monotonic() - self._begun
        self._carried_work += work
        reading = self._window.read()
        if reading is None:
            still = max(_STILL_SECONDS, _STILL_TICKS * self.meter.tick_seconds)
            if self._carried_seconds > still:
                raise unavailable(self.meter, 0.0, self._carried_seconds)
            return None
        self._seen_joules += reading.joules
        self._seen_work += self._carried_work
        rate = reading.joules / self._carried_work
        self.drop()
        return rate

    def drop(self) -> None:
        """Carry nothing: the next piece begins a window of its own."""
        self._window = None
        self._carried_work = self._carried_seconds = 0.0
