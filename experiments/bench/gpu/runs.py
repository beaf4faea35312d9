"""Measurements of `sprout bench gpu` on a live server: cells, lone requests, mixtures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.energy.attribution import Attribution, Share
from envs.energy.carry import CarriedWindows
from envs.energy.meter import EnergyReading, Meter
from envs.energy.work import Activity
from experiments.record.metering import Played, Question, metered, play_for, timed

# By directive: quantiles 1/20, 3/20, 5/20 ... 19/20 of prompt tokens, then of completion tokens.
# Llama-2-13b-chat over SPROUT's published prompts (Li et al., EMNLP 2024, artifact).
LENGTHS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "none": (
        (17, 19, 22, 27, 37, 49, 61, 75, 96, 149),
        (29, 60, 87, 111, 139, 172, 210, 263, 347, 581),
    ),
    "brief": (
        (34, 36, 39, 44, 54, 67, 78, 92, 113, 166),
        (6, 9, 15, 19, 23, 29, 37, 53, 88, 157),
    ),
    "very_brief": (
        (35, 37, 40, 45, 55, 68, 79, 93, 114, 167),
        (5, 6, 8, 11, 16, 20, 25, 33, 50, 109),
    ),
}
# Questions by directive.
Questions = dict[str, list[Question]]


@dataclass(frozen=True)
class Server:
    """A live server under measurement.

    Attributes:
        url: base URL of the server.
        model: name of its model.
        meter: meter of the server's devices.
        attribution: one object for all phases, so that it learns its coefficients from all data.
        window_seconds: s between two readings of the meter.
    """

    url: str
    model: str
    meter: Meter
    attribution: Attribution
    window_seconds: float = 1.0


@dataclass(frozen=True)
class Cell:
    """Measurement of one directive at one number of requests in flight.

    Attributes:
        directive: name of the directive.
        at_once: requests in flight.
        requests: requests that ended.
        cut: requests that were cut off at the end of the cell.
        prompt_tokens, completion_tokens: tokens of all requests, also of those cut off.
        joules, uncertainty_joules: J of all windows with idle power, and its uncertainty.
        seconds: length of all windows, s.
        joules_per_request: J per token times the mean answer length of the questions, so the
            figure does not depend on which requests ended in time.
        joules_per_token: J per generated token.
        tokens_per_second: generated tokens per second.
        watts: mean power, W.
        off: measured less attributed less idle joules, as a ratio of the measured joules.
    """

    directive: str
    at_once: int
    requests: int
    cut: int
    prompt_tokens: int
    completion_tokens: int
    joules: float
    seconds: float
    uncertainty_joules: float
    joules_per_request: float
    joules_per_token: float
    tokens_per_second: float
    watts: float
    off: float


def questions_of(lengths: dict[str, Any] | None = None) -> Questions:
    """Return questions with the given lengths, by directive.

    Args:
        lengths: by directive, the prompt tokens and the completion tokens of each question;
            default `LENGTHS`.
    """
    return {
        name: [Question(int(p), max(1, int(c))) for p, c in zip(*pair, strict=True)]
        for name, pair in (lengths or LENGTHS).items()
    }


def spread(questions: Questions, most: int) -> Questions:
    """Select at most `most` questions per directive, the same rows for all directives.

    The rows are evenly spread over the sorted answer lengths of the first directive.
    """
    lengths = [question.max_tokens for question in next(iter(questions.values()))]
    order, count = np.argsort(lengths, kind="stable"), min(most, len(lengths))
    rows = order[((np.arange(count) + 0.5) * len(lengths) / max(1, count)).astype(int)]
    return {name: [candidates[row] for row in rows] for name, candidates in questions.items()}


def measure(
    server: Server, directive: str, questions: list[Question], at_once: int, seconds: float
) -> Cell:
    """Measure one cell for `seconds`; requests still in flight at the end are cut off."""
    played, windows = _play(server, questions, at_once, seconds)
    activities = played.activities
    joules, elapsed = sum(w.joules for w in windows), sum(w.seconds for w in windows)
    tokens = sum(a.completion_tokens for a in activities)
    idle_before = server.attribution.idle_joules
    shares = attributed(server, activities, windows)
    idle = server.attribution.idle_joules - idle_before
    off = joules - idle - sum(share.joules for share in shares.values())
    return Cell(
        directive,
        at_once,
        len(played.ended),
        len(played.cut),
        sum(a.prompt_tokens for a in activities),
        tokens,
        joules,
        elapsed,
        sum(w.uncertainty_joules**2 for w in windows) ** 0.5,
        joules / max(1, tokens) * _mean_length(questions),
        joules / max(1, tokens),
        tokens / elapsed,
        joules / elapsed,
        abs(off) / joules,
    )


def lone_requests(server: Server, questions: list[Question], seconds: float) -> dict[str, float]:
    """Send requests one by one and compare their shares with a meter window around each.

    A request that ends before the meter ticks is sent again until the meter has ticked.

    Args:
        seconds: time for all requests together; requests that end later are left out.

    Returns:
        Number of compared requests, median error and error of the sum (percent).
    """
    truth: dict[str, float] = {}
    activities: list[Activity] = []
    request_windows = CarriedWindows(server.meter)
    deadline = time.monotonic() + seconds
    with metered(server.meter, server.window_seconds) as windows:
        for i, question in enumerate(questions):
            joules: float | None = None
            tries: list[Activity] = []
            while joules is None:
                request_windows.begin()
                remaining = max(0.0, deadline - time.monotonic())
                # Request keys are drawn from the seed, so each try needs a different seed.
                seed = i + len(questions) * len(tries)
                played = play_for(server.url, server.model, 1, _once(question), remaining, seed)
                tries += played.activities
                if not played.ended:
                    break
                joules = request_windows.end(1.0)
            activities += tries
            if joules is None:
                break
            truth |= {activity.key: joules for activity in tries}
    shares = attributed(server, activities, windows)
    if not truth:
        return {"requests": 0}
    attributed_joules = {key: shares[key].joules for key in truth}
    errors = [attributed_joules[key] / joules - 1 for key, joules in truth.items()]
    return {
        "requests": len(errors),
        "median_error_pct": 100 * float(np.median(np.abs(errors))),
        "sum_error_pct": 100 * (sum(attributed_joules.values()) / sum(truth.values()) - 1),
    }


def mixture(
    server: Server, questions: Questions, at_once: int, seconds: float, pure: dict[str, float]
) -> dict[str, Any]:
    """Mix requests of several directives and compare their joules with those of their own cells.

    Args:
        pure: J per request of each directive when all requests have that directive.

    Returns:
        By directive: number of requests, attributed J per request, and the difference from
        `pure` in percent.
    """
    # By identity, because questions of two directives may be equal.
    names = {id(question): name for name, group in questions.items() for question in group}
    mixed = [question for group in questions.values() for question in group]
    played, windows = _play(server, mixed, at_once, seconds)
    shares = attributed(server, played.activities, windows)
    by_directive: dict[str, Any] = {}
    for name in questions:
        activities = [a for question, a in played.all if names[id(question)] == name]
        joules = sum(shares[a.key].joules + shares[a.key].unmetered_joules for a in activities)
        tokens = sum(a.completion_tokens for a in activities)
        per_request = joules / tokens * _mean_length(questions[name]) if tokens else float("nan")
        by_directive[name] = {
            "requests": len(activities),
            "joules_per_request": per_request,
            "against_pure_pct": 100 * (per_request / pure[name] - 1),
        }
    return by_directive


def attributed(
    server: Server, activities: list[Activity], windows: list[EnergyReading]
) -> dict[str, Share]:
    """Attribute the windows to the requests; return the shares by request key."""
    for activity in activities:
        server.attribution.ended(activity)
    for window in windows:
        server.attribution.window(window)
    return {share.key: share for share in server.attribution.settle(float("inf"))}


def _play(
    server: Server, questions: list[Question], at_once: int, seconds: float
) -> tuple[Played, list[EnergyReading]]:
    """Send random questions for `seconds`; return the requests and the meter's windows."""
    with metered(server.meter, server.window_seconds) as windows:
        ask = timed(seconds, questions, at_once)
        played = play_for(server.url, server.model, at_once, ask, seconds, at_once)
    return played, windows


def _mean_length(questions: list[Question]) -> float:
    """Return the mean tokens of an answer: the cap, because the model never ends an answer."""
    return float(np.mean([question.max_tokens for question in questions]))


def _once(question: Question) -> Callable[[], Question | None]:
    """Return a source that gives `question` once, then None."""
    remaining = [question]
    return lambda: remaining.pop() if remaining else None
