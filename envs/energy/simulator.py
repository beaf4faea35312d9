"""A simulated server with continuous batching, of which each request's joules are known.

It stands in for a real one where the truth is asked for: no meter can say what one request
of a batch has cost. Passes take time and energy by `Coefficients`; the pass itself is shared
evenly by those in it, the rest belongs to the request that caused it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from envs.arrays import Float64Array
from envs.energy.coefficients import Coefficients
from envs.energy.meter import EnergyReading
from envs.energy.work import CONTEXT, CONTEXT_TOKENS, DECODE, KINDS, PASSES, PREFILL, Activity

# vLLM's default for one pass, as of version 0.10.
PROMPT_TOKENS_A_PASS = 2048
# Power drifts by clocks and temperature: relative, over seconds.
DRIFT_RATIO, DRIFT_SECONDS = 0.03, 3.0
# As NVML's counter does.
SIMULATED_TICK_SECONDS = 0.05


# Llama-2-13b in half precision on one A100, from its bytes, its arithmetic and its power.
LLAMA_13B = Coefficients(
    joules=np.array([0.05, 0.1, 0.17, 5.5]),
    seconds=np.array([2e-4, 2e-4, 6e-4, 2e-2]),
    idle_watts=60.0,
    source="made up: Llama-2-13b on an A100",
)


@dataclass(frozen=True)
class Simulated:
    """What was seen from outside, and what nobody sees.

    Attributes:
        activities: of all requests that ended, as a gateway sees them.
        joules: truth of each, above idle power, shape (n,).
        windows: of the meter.
    """

    activities: list[Activity]
    joules: Float64Array
    windows: list[EnergyReading]


@dataclass(slots=True)
class _Request:
    start: float
    prompt: int
    wanted: int
    read: int = 0
    made: int = 0
    first: float = 0.0
    joules: float = 0.0


def simulate(
    coefficients: Coefficients,
    clients: Callable[[float], int],
    lengths: Callable[[], tuple[int, int]],
    seconds: float,
    rng: np.random.Generator,
    *,
    window_seconds: float = 1.0,
    drift_ratio: float = DRIFT_RATIO,
) -> Simulated:
    """Clients that each send a request, wait for its answer and send the next.

    Args:
        clients: how many there are at a time.
        lengths: draws a request's prompt tokens and tokens to generate, both 1 or more.
    """
    now, drift = 0.0, 0.0
    waiting: deque[_Request] = deque()
    running: list[_Request] = []
    ended: list[tuple[_Request, float]] = []
    times, used = [0.0], [0.0]
    while now < seconds:
        for _ in range(clients(now) - len(waiting) - len(running)):
            waiting.append(_Request(now, *lengths()))
        if not waiting and not running:
            now += 0.01
            times.append(now)
            used.append(used[-1])
            continue
        reading = _prompts(waiting)
        done = _work(running, reading)
        lasted = float(coefficients.seconds @ done)
        kept = np.exp(-lasted / DRIFT_SECONDS)
        drift = kept * drift + np.sqrt(1 - kept**2) * rng.normal()
        power = float(np.exp(drift_ratio * drift - drift_ratio**2 / 2))
        now += lasted
        times.append(now)
        used.append(used[-1] + power * float(coefficients.joules @ done))
        _take(power * coefficients.joules, running, reading)
        while waiting and waiting[0].read == waiting[0].prompt:
            request = waiting.popleft()
            request.first, request.made = now, 1
            running.append(request)
        ended += [(r, now) for r in running if r.made >= r.wanted]
        running = [r for r in running if r.made < r.wanted]
    # Those that are cut off have their first token, or none of their work is known.
    ended += [(r, now) for r in running]
    activities = [
        Activity(str(i), r.start, r.first, end, r.prompt, r.made)
        for i, (r, end) in enumerate(ended)
    ]
    edges = np.arange(0.0, seconds + 1e-9, window_seconds)
    seen = np.floor(edges / SIMULATED_TICK_SECONDS) * SIMULATED_TICK_SECONDS
    idle_joules = (coefficients.idle_watts or 0.0) * window_seconds
    joules = np.diff(np.interp(seen, times, used)) + idle_joules
    windows = [
        EnergyReading(float(j), float(begun), window_seconds, "measured", "simulated")
        for j, begun in zip(joules, edges, strict=False)
    ]
    return Simulated(activities, np.array([r.joules for r, _ in ended]), windows)


def _prompts(waiting: Iterable[_Request]) -> list[tuple[_Request, int]]:
    """Whose prompts the next pass reads, and how many tokens of each."""
    left, reading = PROMPT_TOKENS_A_PASS, []
    for request in waiting:
        if left <= 0:
            break
        part = min(left, request.prompt - request.read)
        reading.append((request, part))
        left -= part
    return reading


def _work(running: list[_Request], reading: list[tuple[_Request, int]]) -> Float64Array:
    """What a pass does, of each of `envs.energy.work.KINDS`."""
    done = np.zeros(len(KINDS))
    done[PREFILL], done[DECODE] = sum(part for _, part in reading), len(running)
    done[CONTEXT] = sum(r.prompt + r.made for r in running) / CONTEXT_TOKENS
    done[PASSES] = 1.0
    return done


def _take(
    joules: Float64Array, running: list[_Request], reading: list[tuple[_Request, int]]
) -> None:
    """Give a pass's joules to those in it, and move each of them on."""
    share = joules[PASSES] / (len(running) + len(reading))
    for request in running:
        looked = (request.prompt + request.made) / CONTEXT_TOKENS
        request.joules += share + joules[DECODE] + joules[CONTEXT] * looked
        request.made += 1
    for request, part in reading:
        request.joules += share + joules[PREFILL] * part
        request.read += part
