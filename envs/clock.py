"""Experiment time: stepped, or the wall clock run faster than time."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds of experiment time since the last restart."""

    def rewind(self) -> None:
        """Forget all that has been: what follows is as after construction."""

    def restart(self) -> None:
        """Begin again at 0."""

    def advance(self) -> None:
        """One more request has been handled."""

    def elapsed_seconds(self) -> float:
        """Experiment seconds since `restart`."""


class SteppedClock:
    """Every request takes the same experiment time: deterministic."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._steps = 0

    def rewind(self) -> None:
        """See `Clock`."""
        self.restart()

    def restart(self) -> None:
        """See `Clock`."""
        self._steps = 0

    def advance(self) -> None:
        """See `Clock`."""
        self._steps += 1

    def elapsed_seconds(self) -> float:
        """See `Clock`."""
        return self._steps * self._step_seconds


class WallClock:
    """Real time multiplied by `speed` (1 = as it passes)."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._started = time.monotonic()

    def rewind(self) -> None:
        """See `Clock`."""
        self.restart()

    def restart(self) -> None:
        """See `Clock`."""
        self._started = time.monotonic()

    def advance(self) -> None:
        """Nothing: real time passes by itself."""

    def elapsed_seconds(self) -> float:
        """See `Clock`."""
        return (time.monotonic() - self._started) * self._speed
