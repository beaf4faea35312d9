"""What `sprout bench gpu` measures on a live server: cells, lone requests, mixtures."""

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

# By directive, twentieths 1, 3, 5 ... 19 of the tokens of prompts and answers: Llama-2-13b-chat
# over SPROUT's published prompts (Li et al., EMNLP 2024, artifact).
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
Questions = dict[str, list[Question]]


@dataclass(frozen=True)
class Server:
    """What is measured: a live server, its model and its meter.

    Attributes:
        attribution: one for all that is measured: coefficients are learned from all of it.
    """

    url: str
    model: str
    meter: Meter
    attribution: Attribution
    window_seconds: float = 1.0


@dataclass(frozen=True)
class Cell:
    """Requests of one directive, so many at once.

    Attributes:
        requests, cut: that ended, and that were still on their way at the end.
        joules: of all windows, idle power included.
        joules_per_request: J a token times the mean tokens of what was asked from: it does not
            depend on which requests ended in time.
        off: measured less attributed less idle joules, relative.
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
    """Questions by directive, of recorded lengths: arrays of prompt and completion tokens."""
    return {
        name: [Question(int(p), max(1, int(c))) for p, c in zip(*pair, strict=True)]
        for name, pair in (lengths or LENGTHS).items()
    }


def spread(questions: Questions, most: int) -> Questions:
    """At most so many, evenly spread over the first directive's lengths; the same for all."""
    lengths = [question.max_tokens for question in next(iter(questions.values()))]
    order, count = np.argsort(lengths, kind="stable"), min(most, len(lengths))
    rows = order[((np.arange(count) + 0.5) * len(lengths) / max(1, count)).astype(int)]
    return {name: [asked[row] for row in rows] for name, asked in questions.items()}


def measure(
    server: Server, directive: str, asked: list[Question], at_once: int, seconds: float
) -> Cell:
    """One cell, of so many seconds: what is on its way at the end is cut off."""
    played, windows = _loaded(server, asked, at_once, seconds)
    activities = played.activities
    joules, lasted = sum(w.joules for w in windows), sum(w.seconds for w in windows)
    tokens = sum(a.completion_tokens for a in activities)
    idle = server.attribution.idle_joules
    shares = attributed(server, activities, windows)
    idle = server.attribution.idle_joules - idle
    off = joules - idle - sum(share.joules for share in shares.values())
    return Cell(
        directive,
        at_once,
        len(played.ended),
        len(played.cut),
        sum(a.prompt_tokens for a in activities),
        tokens,
        joules,
        lasted,
        sum(w.uncertainty_joules**2 for w in windows) ** 0.5,
        joules / max(1, tokens) * _mean_length(asked),
        joules / max(1, tokens),
        tokens / lasted,
        joules / lasted,
        abs(off) / joules,
    )


def lone_requests(server: Server, asked: list[Question], seconds: float) -> dict[str, float]:
    """Ask requests one by one, each with a window of its own: the truth for their shares.

    A request that ends before the meter ticks is asked again, until the meter has ticked.

    Args:
        seconds: of all requests together; those that have not ended by then are left out.
    """
    truth: dict[str, float] = {}
    activities: list[Activity] = []
    own = CarriedWindows(server.meter)
    until = time.monotonic() + seconds
    with metered(server.meter, server.window_seconds) as windows:
        for i, question in enumerate(asked):
            joules: float | None = None
            again: list[Activity] = []
            while joules is None:
                own.begin()
                left = max(0.0, until - time.monotonic())
                # The seed names the request: each try needs one of its own.
                seed = i + len(asked) * len(again)
                played = play_for(server.url, server.model, 1, _once(question), left, seed)
                again += played.activities
                if not played.ended:
                    break
                joules = own.end(1.0)
            activities += again
            if joules is None:
                break
            truth |= {activity.key: joules for activity in again}
    shares = attributed(server, activities, windows)
    if not truth:
        return {"requests": 0}
    given = {key: shares[key].joules for key in truth}
    errors = [given[key] / joules - 1 for key, joules in truth.items()]
    return {
        "requests": len(errors),
        "median_error_pct": 100 * float(np.median(np.abs(errors))),
        "sum_error_pct": 100 * (sum(given.values()) / sum(truth.values()) - 1),
    }


def mixture(
    server: Server, asked: Questions, at_once: int, seconds: float, pure: dict[str, float]
) -> dict[str, Any]:
    """Requests of several directives together: each one's attributed joules against its own cell.

    Args:
        pure: J a request where all are of one directive.
    """
    # By identity: questions of two directives may be equal.
    of = {id(question): name for name, questions in asked.items() for question in questions}
    every = [question for questions in asked.values() for question in questions]
    played, windows = _loaded(server, every, at_once, seconds)
    shares = attributed(server, played.activities, windows)
    found: dict[str, Any] = {}
    for name in asked:
        mine = [activity for question, activity in played.all if of[id(question)] == name]
        joules = sum(shares[a.key].joules + shares[a.key].unmetered_joules for a in mine)
        tokens = sum(a.completion_tokens for a in mine)
        each = joules / tokens * _mean_length(asked[name]) if tokens else float("nan")
        found[name] = {
            "requests": len(mine),
            "joules_per_request": each,
            "against_pure_pct": 100 * (each / pure[name] - 1),
        }
    return found


def attributed(
    server: Server, activities: list[Activity], windows: list[EnergyReading]
) -> dict[str, Share]:
    """Shares of all measured joules, by request."""
    for activity in activities:
        server.attribution.ended(activity)
    for window in windows:
        server.attribution.window(window)
    return {share.key: share for share in server.attribution.settle(float("inf"))}


def _loaded(
    server: Server, asked: list[Question], at_once: int, seconds: float
) -> tuple[Played, list[EnergyReading]]:
    with metered(server.meter, server.window_seconds) as windows:
        ask = timed(seconds, asked, at_once)
        played = play_for(server.url, server.model, at_once, ask, seconds, at_once)
    return played, windows


def _mean_length(asked: list[Question]) -> float:
    """Tokens of an answer: there is no end but the cap."""
    return float(np.mean([question.max_tokens for question in asked]))


def _once(question: Question) -> Callable[[], Question | None]:
    left = [question]
    return lambda: left.pop() if left else None
