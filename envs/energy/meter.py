"""Energy: readings, meters, and the split of a window's joules among requests."""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.arrays import Float64Array
from envs.errors import MeterError, UnitError
from envs.plausible import LEAST_WATTS, check_watts

# Weight of a prompt token against a generated one when a window is split: a prompt is
# processed in one parallel pass. A stated assumption, not a measurement.
PREFILL_TOKEN_WEIGHT = 0.1
# NVML's total-energy counter advances every 20 to 100 ms.
DEFAULT_TICK_SECONDS = 0.2
# A counter that stands still for longer is none.
_STILL_SECONDS = 60.0
# A counter that ticks so slowly is read from tick to tick.
_SLOW_SECONDS = 0.25
# The wall clock may differ from the steady one by this much in a window.
_CLOCK_SECONDS = 0.5


class Meter(Protocol):
    """A counter of joules used so far by the server's devices."""

    @property
    def method(self) -> str:
        """How it knows: "measured" or "estimated"."""

    @property
    def source(self) -> str:
        """What was read, for people."""

    @property
    def devices(self) -> tuple[str, ...]:
        """What is metered together."""

    @property
    def error_ratio(self) -> float:
        """How far its joules may be from the true ones, as a ratio of them."""

    @property
    def tick_seconds(self) -> float:
        """How often its counter advances."""

    def read_joules(self) -> float:
        """J since some fixed moment; never falls, but where the counter begins anew.

        Raises:
            MeterError: the counter cannot be read.
        """


@dataclass(frozen=True)
class EnergyReading:
    """Energy of a window.

    Attributes:
        joules: J used by the metered devices in the window, idle power included.
        start: Unix seconds at which it began.
        seconds: s of wall-clock time.
        method: "measured" or "estimated".
        source: what was read.
        devices: what was metered together.
        uncertainty_joules: how far off the joules may be: the meter's own error, and that
            its counter advances in ticks.

    Raises:
        UnitError: its power is absurd.
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
            # An estimate by processor time may be next to nothing.
            least = LEAST_WATTS if self.method == "measured" else 0.0
            check_watts(self.joules, self.seconds, self.source, least)

    @property
    def end(self) -> float:
        """Unix seconds at which it ended."""
        return self.start + self.seconds


class Window:
    """Reads a meter at its creation and at `close()`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._joules = meter.read_joules()
        self._began = time.time()
        self._started = time.monotonic()

    def read(self) -> EnergyReading | None:
        """The window's energy so far; None where the counter has not moved.

        Raises:
            MeterError: the counter cannot be read, or it began anew.
            UnitError: its power is absurd.
        """
        seconds = time.monotonic() - self._started
        # Counters advance in ticks: a short window may have to wait for the next one.
        wait = max(DEFAULT_TICK_SECONDS, 2 * self._meter.tick_seconds)
        if self._meter.method != "measured":
            # Of what counts work alone, none comes after the work.
            wait = 2 * self._meter.tick_seconds
        deadline = time.monotonic() + wait
        while (joules := self._meter.read_joules() - self._joules) == 0:
            if time.monotonic() >= deadline:
                return None
            time.sleep(wait / 20)
        if joules < 0:
            raise unavailable(self._meter, joules, seconds)
        return _reading(self._meter, joules, self._began, seconds)

    def close(self) -> EnergyReading:
        """The window's energy.

        Raises:
            MeterError: the counter did not move, which means that it is unavailable, or it
                began anew.
            UnitError: its power is absurd.
        """
        reading = self.read()
        if reading is None:
            raise unavailable(self._meter, 0.0, time.monotonic() - self._started)
        return reading


def unavailable(meter: Meter, joules: float, seconds: float) -> MeterError:
    """The error of a counter that rose by `joules` (J, 0 or less) over `seconds` (s) of work."""
    return MeterError(
        f"{meter.source} read {joules:.3g} J over {seconds:.3f} s of work; "
        "a meter that does not move, or falls, is unavailable"
    )


class WindowReader:
    """A meter's windows one after another, whatever happens to its counter or the clock.

    Call `read` about once a second. A window that cannot be trusted is left out, and there
    is a gap: the counter fell (a driver was loaded anew), it could not be read, or the clock
    was set.

    Attributes:
        problem: what is wrong with the meter now; None if nothing is.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.problem: str | None = None
        self._last: tuple[float, float, float] | None = None
        self._ticked = False

    def read(self) -> EnergyReading | None:
        """The window since the last reading; None where there is none to be had (yet)."""
        now, began = time.monotonic(), time.time()
        try:
            joules = self.meter.read_joules()
        except MeterError as error:
            self._last, self._ticked, self.problem = None, False, str(error)
            return None
        last = self._last
        if last is None:
            self._last = joules, now, began
            return None
        rise, seconds = joules - last[0], now - last[1]
        if rise == 0:
            still = max(_STILL_SECONDS, 4 * self.meter.tick_seconds)
            if seconds > still and self.meter.method == "measured":
                self.problem = f"{self.meter.source} has not moved for {seconds:.0f} s"
            return None
        if not self._ticked:
            self._ticked = True
            if self.meter.tick_seconds > _SLOW_SECONDS:
                # What it rose by began before we looked: windows begin at its ticks.
                self._last = joules, now, began
                return None
        jumped = abs((began - last[2]) - seconds) > _CLOCK_SECONDS
        # Windows follow each other without a gap, though the two clocks drift apart.
        self._last = joules, now, began if jumped else last[2] + seconds
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
    tick = joules * min(1.0, meter.tick_seconds / max(seconds, 1e-9))
    uncertainty = ((meter.error_ratio * joules) ** 2 + tick**2) ** 0.5
    named = meter.method, meter.source, meter.devices
    return EnergyReading(joules, start, seconds, *named, uncertainty)


def split_by_tokens(
    whole: float,
    prompt_tokens: Float64Array,
    completion_tokens: Float64Array,
) -> Float64Array:
    """Split a window's joules, or its seconds, by tokens; the shares sum to the whole.

    Returns:
        Share of each request, shape (n,): in proportion to completion tokens +
        `PREFILL_TOKEN_WEIGHT` x prompt tokens, evenly if no request has any.
    """
    weights = token_work(prompt_tokens, completion_tokens)
    shares: Float64Array = whole * (weights / weights.sum())
    return shares


def token_work(prompt_tokens: Float64Array, completion_tokens: Float64Array) -> Float64Array:
    """The work of each request, in generated tokens, by which joules are split; shape (n,).

    1 for each request if no request has any tokens.
    """
    weights: Float64Array = completion_tokens + PREFILL_TOKEN_WEIGHT * prompt_tokens
    return weights if weights.sum() > 0 else np.ones_like(weights)


def busy_seconds(starts: Float64Array, ends: Float64Array) -> float:
    """Seconds in which at least one request was in flight: the union of their intervals."""
    order = np.argsort(starts)
    begun, until = starts[order], np.maximum.accumulate(ends[order])
    idle = np.maximum(0.0, begun[1:] - until[:-1]).sum()
    return float(until[-1] - begun[0] - idle) if len(starts) else 0.0


def attributed_method(method: str) -> str:
    """The label of a share of a reading: a measured window's shares are attributed."""
    return "attributed" if method == "measured" else method
