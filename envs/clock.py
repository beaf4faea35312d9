"""Experiment time: a fixed step per request, or the wall clock multiplied by a speed."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds of experiment time since the last restart."""

    def rewind(self) -> None:
        """Return to the state after construction."""

    def restart(self) -> None:
        """Set the elapsed time to 0."""

    def advance(self) -> None:
        """Record that one more request has been handled."""

    def elapsed_seconds(self) -> float:
        """Return the experiment time since `restart`, s."""


class SteppedClock:
    """A deterministic clock: every request takes the same experiment time."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._steps = 0

    def rewind(self) -> None:
        """Set the elapsed time to 0: the clock has no other state."""
        self.restart()

    def restart(self) -> None:
        """Set the elapsed time to 0."""
        self._steps = 0

    def advance(self) -> None:
        """Move on by one step."""
        self._steps += 1

    def elapsed_seconds(self) -> float:
        """Return the number of steps since `restart`, times the step length, s."""
        return self._steps * self._step_seconds


class WallClock:
    """Real time multiplied by `speed` (1 = real time)."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._started = time.monotonic()

    def rewind(self) -> None:
        """Set the elapsed time to 0: the clock has no other state."""
        self.restart()

    def restart(self) -> None:
        """Set the elapsed time to 0."""
        self._started = time.monotonic()

    def advance(self) -> None:
        """Do nothing: real time passes by itself."""

    def elapsed_seconds(self) -> float:
        """Return the real time since `restart`, times the speed, s."""
        return (time.monotonic() - self._started) * self._speed
