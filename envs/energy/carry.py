"""Joules of pieces of work that may be shorter than the meter's tick."""

import time

from envs.energy.meter import Meter, Window, unavailable

# A counter that has not moved over this much work is stuck. The limits exceed the ticks that
# chance can hide, and the time that a server waits for a busy processor.
_STILL_TICKS = 4
_STILL_SECONDS = 1.0


class CarriedWindows:
    """A meter's windows around pieces of work.

    A piece of work during which the counter does not move is carried into the next window. A
    window may therefore hold several pieces: all pieces since the counter last moved. The window's
    joules are split among the pieces by their work, so no joules are lost or invented, and no piece
    has 0 J.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._total_joules = self._total_work = 0.0
        self._window: Window | None = None
        self._piece_start = self._carried_work = self._carried_seconds = 0.0

    @property
    def known(self) -> float | None:
        """Mean J per unit of work over all windows so far; None before the first window."""
        return self._total_joules / self._total_work if self._total_work else None

    def begin(self) -> None:
        """Begin a piece of work.

        Raises:
            MeterError: the counter cannot be read.
        """
        self._window = self._window or Window(self.meter)
        self._piece_start = time.monotonic()

    def end(self, work: float) -> float | None:
        """End the piece that began last.

        Args:
            work: amount of work in the piece, above 0, in any unit common to all pieces.

        Returns:
            J per unit of work, for this piece and the carried pieces; None if the counter has not
            moved yet, in which case this piece is carried too.

        Raises:
            MeterError: the counter is stuck, fell, or cannot be read.
            UnitError: the window's power is absurd.
        """
        assert self._window is not None
        self._carried_seconds += time.monotonic() - self._piece_start
        self._carried_work += work
        reading = self._window.read()
        if reading is None:
            still_limit = max(_STILL_SECONDS, _STILL_TICKS * self.meter.tick_seconds)
            if self._carried_seconds > still_limit:
                raise unavailable(self.meter, 0.0, self._carried_seconds)
            return None
        self._total_joules += reading.joules
        self._total_work += self._carried_work
        rate = reading.joules / self._carried_work
        self.drop()
        return rate

    def drop(self) -> None:
        """Discard all carried work: the next piece begins a new window."""
        self._window = None
        self._carried_work = self._carried_seconds = 0.0
