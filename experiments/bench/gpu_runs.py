"""What `sprout bench gpu` measures on a live server: cells, lone requests, mixtures, training."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from envs.energy.attribution import Attribution, Share
from envs.energy.meter import EnergyReading, Meter, Window, attributed_method
from envs.energy.work import Activity
from envs.llama2 import Llama2VectorEnv
from envs.requests.directive import DEFAULT_CATALOGUE, Catalogue, Directive
from experiments.record.metering import Question, metered, play, timed

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
        joules: of all windows, idle power included.
        off: measured less attributed less idle joules, relative.
    """

    directive: str
    at_once: int
    requests: int
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


def measure(
    server: Server, directive: str, asked: list[Question], at_once: int, seconds: float
) -> Cell:
    """One cell."""
    activities, windows = _loaded(server, asked, at_once, seconds)
    joules, lasted = sum(w.joules for w in windows), sum(w.seconds for w in windows)
    tokens = sum(a.completion_tokens for a in activities)
    idle = server.attribution.idle_joules
    shares = attributed(server, activities, windows)
    idle = server.attribution.idle_joules - idle
    off = joules - idle - sum(share.joules for share in shares.values())
    return Cell(
        directive,
        at_once,
        len(activities),
        sum(a.prompt_tokens for a in activities),
        tokens,
        joules,
        lasted,
        sum(w.uncertainty_joules**2 for w in windows) ** 0.5,
        joules / len(activities),
        joules / max(1, tokens),
        tokens / lasted,
        joules / lasted,
        abs(off) / joules,
    )


def lone_requests(server: Server, asked: list[Question]) -> dict[str, float]:
    """Requests one by one, each with a window of its own: the truth that shares are held to."""
    truth: dict[str, float] = {}
    activities: list[Activity] = []
    with metered(server.meter, server.window_seconds) as windows:
        for i, question in enumerate(asked):
            window = Window(server.meter)
            (activity,) = play(server.url, server.model, 1, _once(question), i)
            truth[activity.key] = window.close().joules
            activities.append(activity)
    shares = attributed(server, activities, windows)
    errors = [shares[key].joules / joules - 1 for key, joules in truth.items()]
    return {
        "requests": len(errors),
        "median_error_pct": 100 * float(np.median(np.abs(errors))),
        "sum_error_pct": 100 * (sum(s.joules for s in shares.values()) / sum(truth.values()) - 1),
    }


def mixture(
    server: Server, asked: Questions, at_once: int, seconds: float, pure: dict[str, float]
) -> dict[str, Any]:
    """Requests of several directives together: each one's attributed joules against its own cell.

    Args:
        pure: J a request where all are of one directive.
    """
    every = [q for questions in asked.values() for q in questions]
    of = {question: name for name, questions in asked.items() for question in questions}
    activities, windows = _loaded(server, every, at_once, seconds)
    shares = attributed(server, activities, windows)
    found: dict[str, Any] = {}
    for name in asked:
        mine = [
            shares[a.key].joules + shares[a.key].unmetered_joules
            for a in activities
            if of.get(_nearest(a, every)) == name
        ]
        joules = float(np.mean(mine)) if mine else float("nan")
        found[name] = {
            "requests": len(mine),
            "joules_per_request": joules,
            "against_pure_pct": 100 * (joules / pure[name] - 1),
        }
    return found


def train(server: Server, seconds: float, lanes: int) -> dict[str, Any]:
    """PPO on the live vector environment, with metered joules in its reward, for so long."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    from agents.training.sb3 import Lanes

    capped = [
        Directive(d.name, d.text, None if d.name == "none" else int(np.mean(LENGTHS[d.name][1])))
        for d in (DEFAULT_CATALOGUE[i] for i in range(len(DEFAULT_CATALOGUE)))
    ]
    env = gymnasium.make_vec(
        "envs.registration:sprout/Llama2Live-v0",
        num_envs=lanes,
        vectorization_mode="vector_entry_point",
        upstream=server.url,
        model=server.model,
        catalogue=Catalogue(tuple(capped)),
        meter=server.meter,
    )
    assert isinstance(env, Llama2VectorEnv)
    rewards: list[float] = []
    joules: list[float] = []
    until = time.monotonic() + seconds
    vector = Lanes(env, gamma=0.0)

    class Watch(BaseCallback):
        """Keeps what each step gave, and ends in time."""

        def _on_step(self) -> bool:
            info = vector.last_info
            rewards.append(float(np.mean(self.locals["rewards"])))
            joules.append(float(np.mean(info["energy_joules"])))
            return time.monotonic() < until

    began = time.monotonic()
    agent = PPO("MlpPolicy", vector, n_steps=4, batch_size=lanes, gamma=0.0, device="cpu", seed=0)
    agent.learn(1_000_000, callback=Watch())
    lasted = time.monotonic() - began
    env.close()
    tenth = max(1, len(joules) // 10)
    return {
        "steps": len(rewards) * lanes,
        "steps_per_second": len(rewards) * lanes / lasted,
        "energy_method": attributed_method(server.meter.method),
        "rewards_finite": bool(np.isfinite(rewards).all()),
        "joules_per_request_first_tenth": float(np.mean(joules[:tenth])),
        "joules_per_request_last_tenth": float(np.mean(joules[-tenth:])),
    }


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
) -> tuple[list[Activity], list[EnergyReading]]:
    with metered(server.meter, server.window_seconds) as windows:
        ask = timed(seconds, asked, at_once)
        activities = play(server.url, server.model, at_once, ask, at_once)
    return activities, windows


def _once(question: Question) -> Callable[[], Question | None]:
    left = [question]
    return lambda: left.pop() if left else None


def _nearest(activity: Activity, asked: list[Question]) -> Question:
    """The question that an answer of this length was to: there is no end but the cap."""
    return min(asked, key=lambda q: abs(q.max_tokens - activity.completion_tokens))
