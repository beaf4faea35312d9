"""Energy meters, readings of time windows, and the split of a window's joules by tokens."""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.arrays import Float64Array
from envs.errors import MeterError, UnitError
from envs.plausible import LEAST_WATTS, check_watts

# Weight of a prompt token relative to a generated token in a split by tokens: a prompt is
# processed in one parallel pass. A stated assumption, not a measurement.
PREFILL_TOKEN_WEIGHT = 0.1
# NVML's total-energy counter advances every 20 to 100 ms.
DEFAULT_TICK_SECONDS = 0.2
# A measuring counter that has not moved for longer than this is reported as a problem.
_STILL_SECONDS = 60.0
# The windows of a counter with longer ticks than this run from tick to tick.
_SLOW_SECONDS = 0.25
# If the wall clock deviates from the monotonic clock by more than this, somebody set it.
_CLOCK_SECONDS = 0.5


class Meter(Protocol):
    """A counter of the energy used by the server's devices."""

    @property
    def method(self) -> str:
        """Label of the meter's joules: "measured" or "estimated"."""

    @property
    def source(self) -> str:
        """Human-readable description of what the meter reads."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices whose energy is summed."""

    @property
    def error_ratio(self) -> float:
        """Largest error of the meter's joules relative to the true joules."""

    @property
    def tick_seconds(self) -> float:
        """Interval at which the counter advances, s."""

    def read_joules(self) -> float:
        """Return the joules used since a fixed moment; the value falls only if the counter resets.

        Raises:
            MeterError: the counter cannot be read.
        """


@dataclass(frozen=True)
class EnergyReading:
    """Energy used in one time window.

    Attributes:
        joules: energy used by the metered devices in the window, idle power included, J.
        start: start of the window, Unix seconds.
        seconds: length of the window, s of wall-clock time.
        method: "measured" or "estimated".
        source: description of what the meter reads.
        devices: names of the devices whose energy is summed.
        uncertainty_joules: uncertainty from the meter's own error and from the length of the
            counter's ticks, J.

    Raises:
        UnitError: the power is absurd.
    """

    joules: float
    start: float
    seconds: float
    method: str
    source: str
    devices: tuple[str, ...] = ()
    uncertainty_joules: float = 0.0

    def __post_init__(self) -> None:
        if self.joules and self.seconds > 0:
            # An estimate from processor time may be close to 0 W.
            least_watts = LEAST_WATTS if self.method == "measured" else 0.0
            check_watts(self.joules, self.seconds, self.source, least_watts)

    @property
    def end(self) -> float:
        """End of the window, Unix seconds."""
        return self.start + self.seconds


class Window:
    """A time window that begins with the object's creation, when the meter is read first."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._joules = meter.read_joules()
        self._start_time = time.time()
        self._start_monotonic = time.monotonic()

    def read(self) -> EnergyReading | None:
        """Return the window's energy so far, or None if the counter has not moved.

        Raises:
            MeterError: the counter cannot be read, or it was reset.
            UnitError: the power is absurd.
        """
        seconds = time.monotonic() - self._start_monotonic
        # Counters advance in ticks: a short window may have to wait for the next tick.
        wait = max(DEFAULT_TICK_SECONDS, 2 * self._meter.tick_seconds)
        if self._meter.method != "measured":
            # These counters count work only, so none of their ticks comes long after the work.
            wait = 2 * self._meter.tick_seconds
        deadline = time.monotonic() + wait
        while (joules := self._meter.read_joules() - self._joules) == 0:
            if time.monotonic() >= deadline:
                return None
            time.sleep(wait / 20)
        if joules < 0:
            raise unavailable(self._meter, joules, seconds)
        return _reading(self._meter, joules, self._start_time, seconds)

    def close(self) -> EnergyReading:
        """Return the window's energy.

        Raises:
            MeterError: the counter was reset, or it did not move, which means that the meter is
                unavailable.
            UnitError: the power is absurd.
        """
        reading = self.read()
        if reading is None:
            raise unavailable(self._meter, 0.0, time.monotonic() - self._start_monotonic)
        return reading


def unavailable(meter: Meter, joules: float, seconds: float) -> MeterError:
    """Return the error for a counter that moved by `joules` (0 or less) in `seconds` of work."""
    return MeterError(
        f"{meter.source} read {joules:.3g} J over {seconds:.3f} s of work; "
        "a meter whose counter does not rise during work is unavailable"
    )


class WindowReader:
    """Successive windows of a meter, robust to faults of its counter and of the wall clock.

    Call `read` about once a second. A window that cannot be trusted is omitted, which leaves a
    gap: the counter fell (a driver was reloaded), the counter could not be read, or the wall clock
    was set.

    Attributes:
        problem: description of the meter's current problem; None if there is none.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.problem: str | None = None
        # Of the last reading: the counter in J, the monotonic clock and the wall clock in s.
        self._last: tuple[float, float, float] | None = None
        self._ticked = False

    def read(self) -> EnergyReading | None:
        """Return the window since the last reading, or None if there is no valid window yet."""
        now, wall_time = time.monotonic(), time.time()
        try:
            joules = self.meter.read_joules()
        except MeterError as error:
            self._last, self._ticked, self.problem = None, False, str(error)
            return None
        last = self._last
        if last is None:
            self._last = joules, now, wall_time
            return None
        rise, seconds = joules - last[0], now - last[1]
        if rise == 0:
            still_limit = max(_STILL_SECONDS, 4 * self.meter.tick_seconds)
            if seconds > still_limit and self.meter.method == "measured":
                self.problem = f"{self.meter.source} has not moved for {seconds:.0f} s"
            return None
        if not self._ticked:
            self._ticked = True
            if self.meter.tick_seconds > _SLOW_SECONDS:
                # Part of this rise is older than the first reading: begin windows at ticks.
                self._last = joules, now, wall_time
                return None
        jumped = abs((wall_time - last[2]) - seconds) > _CLOCK_SECONDS
        # Each window starts exactly where the last one ended, though the two clocks drift apart.
        self._last = joules, now, wall_time if jumped else last[2] + seconds
        if rise < 0 or jumped or seconds <= 0:
            return None
        try:
            reading = _reading(self.meter, rise, last[2], seconds)
        except UnitError as error:
            self.problem = str(error)
            return None
        self.problem = None
        return reading


def _reading(meter: Meter, joules: float, start: float, seconds: float) -> EnergyReading:
    tick_joules = joules * min(1.0, meter.tick_seconds / max(seconds, 1e-9))
    uncertainty = ((meter.error_ratio * joules) ** 2 + tick_joules**2) ** 0.5
    labels = meter.method, meter.source, meter.devices
    return EnergyReading(joules, start, seconds, *labels, uncertainty)


def split_by_tokens(
    total: float,
    prompt_tokens: Float64Array,
    completion_tokens: Float64Array,
) -> Float64Array:
    """Split a window's joules or seconds by tokens; the shares sum to `total`.

    Returns:
        Share of each request, shape (n,): in proportion to completion tokens +
        `PREFILL_TOKEN_WEIGHT` x prompt tokens, or equal if no request has any tokens.
    """
    weights = token_work(prompt_tokens, completion_tokens)
    shares: Float64Array = total * (weights / weights.sum())
    return shares


def token_work(prompt_tokens: Float64Array, completion_tokens: Float64Array) -> Float64Array:
    """Return each request's work, in equivalent generated tokens, shape (n,).

    The work is 1 for each request if no request has any tokens.
    """
    weights: Float64Array = completion_tokens + PREFILL_TOKEN_WEIGHT * prompt_tokens
    return weights if weights.sum() > 0 else np.ones_like(weights)


def busy_seconds(starts: Float64Array, ends: Float64Array) -> float:
    """Return the seconds with at least one request in flight: the union of their intervals."""
    order = np.argsort(starts)
    sorted_starts, latest_ends = starts[order], np.maximum.accumulate(ends[order])
    idle = np.maximum(0.0, sorted_starts[1:] - latest_ends[:-1]).sum()
    return float(latest_ends[-1] - sorted_starts[0] - idle) if len(starts) else 0.0


def attributed_method(method: str) -> str:
    """Return the label for shares of a reading: shares of a measured window are "attributed"."""
    return "attributed" if method == "measured" else method
