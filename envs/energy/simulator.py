"""A simulated LLM server with continuous batching whose energy per request is known exactly.

The simulator gives a ground truth to test attribution against: on a real server, no meter can
tell what one request of a batch costs. `Coefficients` give the time and the energy of each pass.
All requests in a pass share its fixed cost evenly; every other cost belongs to the request that
caused it.
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
PROMPT_TOKENS_PER_PASS = 2048
# Power drifts with clock rates and temperature: relative standard deviation, time constant in s.
DRIFT_RATIO, DRIFT_SECONDS = 0.03, 3.0
# NVML's energy counter advances in ticks of about this length.
SIMULATED_TICK_SECONDS = 0.05


# Llama-2-13b in half precision on one A100, derived from its bytes, its arithmetic and its power.
LLAMA_13B = Coefficients(
    joules=np.array([0.05, 0.1, 0.17, 5.5]),
    seconds=np.array([2e-4, 2e-4, 6e-4, 2e-2]),
    idle_watts=60.0,
    source="made up: Llama-2-13b on an A100",
)


@dataclass(frozen=True)
class Simulation:
    """Result of a simulation: the observable data and the hidden ground truth.

    Attributes:
        activities: all requests that ended, as a gateway would observe them.
        joules: true energy of each request above idle power, J, shape (n,).
        windows: readings of the simulated meter.
    """

    activities: list[Activity]
    joules: Float64Array
    windows: list[EnergyReading]


@dataclass(slots=True)
class _Request:
    sent: float
    prompt_tokens: int
    target_tokens: int
    prompt_tokens_read: int = 0
    generated_tokens: int = 0
    first_token_time: float = 0.0
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
) -> Simulation:
    """Simulate closed-loop clients: each sends a request, waits for its answer, sends the next.

    Args:
        clients: returns the number of clients at a time (s since the start).
        lengths: draws a request's prompt tokens and tokens to generate, both 1 or more.
        seconds: simulated time, s.
        window_seconds: length of a meter window, s.
        drift_ratio: relative standard deviation of the power's slow drift.
    """
    now, drift = 0.0, 0.0
    waiting: deque[_Request] = deque()
    running: list[_Request] = []
    ended: list[tuple[_Request, float]] = []
    times, cumulative_joules = [0.0], [0.0]
    while now < seconds:
        for _ in range(clients(now) - len(waiting) - len(running)):
            waiting.append(_Request(now, *lengths()))
        if not waiting and not running:
            now += 0.01
            times.append(now)
            cumulative_joules.append(cumulative_joules[-1])
            continue
        prefills = _schedule_prompts(waiting)
        work = _work_of_pass(running, prefills)
        pass_seconds = float(coefficients.seconds @ work)
        decay = np.exp(-pass_seconds / DRIFT_SECONDS)
        drift = decay * drift + np.sqrt(1 - decay**2) * rng.normal()
        power = float(np.exp(drift_ratio * drift - drift_ratio**2 / 2))
        now += pass_seconds
        times.append(now)
        cumulative_joules.append(cumulative_joules[-1] + power * float(coefficients.joules @ work))
        _run_pass(power * coefficients.joules, running, prefills)
        while waiting and waiting[0].prompt_tokens_read == waiting[0].prompt_tokens:
            request = waiting.popleft()
            request.first_token_time, request.generated_tokens = now, 1
            running.append(request)
        ended += [(r, now) for r in running if r.generated_tokens >= r.target_tokens]
        running = [r for r in running if r.generated_tokens < r.target_tokens]
    # Requests cut off by the end count if they have their first token; the others are dropped.
    ended += [(r, now) for r in running]
    activities = [
        Activity(str(i), r.sent, r.first_token_time, end, r.prompt_tokens, r.generated_tokens)
        for i, (r, end) in enumerate(ended)
    ]
    edges = np.arange(0.0, seconds + 1e-9, window_seconds)
    tick_times = np.floor(edges / SIMULATED_TICK_SECONDS) * SIMULATED_TICK_SECONDS
    idle_joules = (coefficients.idle_watts or 0.0) * window_seconds
    joules = np.diff(np.interp(tick_times, times, cumulative_joules)) + idle_joules
    windows = [
        EnergyReading(float(j), float(start), window_seconds, "measured", "simulated")
        for j, start in zip(joules, edges, strict=False)
    ]
    return Simulation(activities, np.array([r.joules for r, _ in ended]), windows)


def _schedule_prompts(waiting: Iterable[_Request]) -> list[tuple[_Request, int]]:
    """Return the requests whose prompts the next pass reads, each with its number of tokens."""
    budget, prefills = PROMPT_TOKENS_PER_PASS, []
    for request in waiting:
        if budget <= 0:
            break
        tokens = min(budget, request.prompt_tokens - request.prompt_tokens_read)
        prefills.append((request, tokens))
        budget -= tokens
    return prefills


def _work_of_pass(running: list[_Request], prefills: list[tuple[_Request, int]]) -> Float64Array:
    """Return the work of one pass, one entry for each of `envs.energy.work.KINDS`."""
    work = np.zeros(len(KINDS))
    work[PREFILL], work[DECODE] = sum(tokens for _, tokens in prefills), len(running)
    work[CONTEXT] = sum(r.prompt_tokens + r.generated_tokens for r in running) / CONTEXT_TOKENS
    work[PASSES] = 1.0
    return work


def _run_pass(
    joules: Float64Array, running: list[_Request], prefills: list[tuple[_Request, int]]
) -> None:
    """Charge a pass's joules to the requests in the pass, and advance their token counts."""
    pass_share = joules[PASSES] / (len(running) + len(prefills))
    for request in running:
        context = (request.prompt_tokens + request.generated_tokens) / CONTEXT_TOKENS
        request.joules += pass_share + joules[DECODE] + joules[CONTEXT] * context
        request.generated_tokens += 1
    for request, tokens in prefills:
        request.joules += pass_share + joules[PREFILL] * tokens
        request.prompt_tokens_read += tokens
