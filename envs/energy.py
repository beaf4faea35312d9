"""Energy: readings, meters, and the split of a window's joules among requests."""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from envs.errors import MeterError

# Weight of a prompt token against a generated one when a window is split: a prompt is
# processed in one parallel pass. A stated assumption, not a measurement.
PREFILL_TOKEN_WEIGHT = 0.1
# NVML's total-energy counter advances every 20 to 100 ms.
TICK_SECONDS = 0.2


class Meter(Protocol):
    """A counter of joules used so far by the server's devices."""

    @property
    def method(self) -> str:
        """How it knows: "measured" or "estimated"."""

    @property
    def source(self) -> str:
        """What was read, for people."""

    def read_joules(self) -> float:
        """J since some fixed moment; never falls.

        Raises:
            MeterError: the counter cannot be read.
        """


@dataclass(frozen=True)
class EnergyReading:
    """Energy of a window.

    Attributes:
        joules: J used by the metered devices in the window, idle power included.
        seconds: s of wall-clock time.
        method: "measured" or "estimated".
        source: what was read.
    """

    joules: float
    seconds: float
    method: str
    source: str


class Window:
    """Reads a meter at its creation and at `close()`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._joules = meter.read_joules()
        self._started = time.monotonic()

    def close(self) -> EnergyReading:
        """The window's energy.

        Raises:
            MeterError: the counter did not move, which means that it is unavailable.
        """
        seconds = time.monotonic() - self._started
        deadline = time.monotonic() + TICK_SECONDS
        # Counters advance in ticks: a short window may have to wait for the next one.
        while (joules := self._meter.read_joules() - self._joules) <= 0:
            if time.monotonic() > deadline:
                break
            time.sleep(TICK_SECONDS / 20)
        if joules <= 0:
            raise MeterError(
                f"{self._meter.source} read {joules:.3g} J over {seconds:.3f} s of work; "
                "a meter that does not move is unavailable"
            )
        return EnergyReading(joules, seconds, self._meter.method, self._meter.source)


def attribute(
    whole: float,
    prompt_tokens: NDArray[np.float64],
    completion_tokens: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Split a window's joules, or its seconds, by tokens; the shares sum to the whole.

    Returns:
        Share of each request, shape (n,): in proportion to completion tokens +
        `PREFILL_TOKEN_WEIGHT` x prompt tokens, evenly if no request has any.
    """
    weights = completion_tokens + PREFILL_TOKEN_WEIGHT * prompt_tokens
    total = float(weights.sum())
    if total <= 0:
        return np.full(len(weights), whole / max(1, len(weights)))
    shares: NDArray[np.float64] = whole * (weights / total)
    return shares


def busy_seconds(starts: NDArray[np.float64], ends: NDArray[np.float64]) -> float:
    """Seconds in which at least one request was in flight: the union of their intervals."""
    order = np.argsort(starts)
    begun, until = starts[order], np.maximum.accumulate(ends[order])
    idle = np.maximum(0.0, begun[1:] - until[:-1]).sum()
    return float(until[-1] - begun[0] - idle) if len(starts) else 0.0


def attributed_method(method: str) -> str:
    """The label of a share of a reading: a measured window's shares are attributed."""
    return "attributed" if method == "measured" else method
