"""`sprout bench decide`: time that a bundle takes to decide one request, features included."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from agents.policy.bundle import Bundle, load_bundle
from agents.policy.pricing import Floors
from envs.carbon.csv_traces import synthetic_day
from envs.requests.projection import WordProjection
from experiments.settings import Settings, write_json
from serving.hook.decider import Decider, DecisionInput, draw
from serving.hook.grid import Grid

# Characters of a request.
LENGTHS = (1_000, 30_000)
# Used when the policy has no vocabulary of its own.
PLAIN_WORDS = ("please", "say", "what", "is", "the", "way", "from", "here", "to", "there")


class DecideBench(Settings):
    """Microseconds per decision, one request at a time on one core: median, 99th percentile."""

    policy: Path = Field(description="policy bundle")
    requests: int = Field(5000, ge=100, description="distinct requests of each length")
    repeats: int = Field(5, ge=1, description="runs; medians and ranges are taken over them")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Time the decisions of each request length, print them and write the JSON result."""
        bundle = load_bundle(self.policy)
        trace = synthetic_day()
        decider = Decider(bundle)
        grid = Grid(trace, lambda: trace.start + 40_000.0)
        result: dict[str, Any] = {"policy": bundle.version}
        for length in LENGTHS:
            bodies = _bodies(bundle, length, self.requests)
            runs = np.array([_microseconds(decider, grid, bodies) for _ in range(self.repeats)])
            medians, tails = np.percentile(runs, [50, 99], axis=1)
            result[str(length)] = {
                "median_us": float(np.median(medians)),
                "median_us_range": [float(medians.min()), float(medians.max())],
                "p99_us": float(np.median(tails)),
                "p99_us_range": [float(tails.min()), float(tails.max())],
            }
            print(
                f"{length:,} characters: median {np.median(medians):.0f} us "
                f"({medians.min():.0f} to {medians.max():.0f} in {self.repeats} runs), "
                f"99th percentile {np.median(tails):.0f} us "
                f"({tails.min():.0f} to {tails.max():.0f})"
            )
        write_json(self.json_path, result)


def _bodies(bundle: Bundle, length: int, count: int) -> list[dict[str, Any]]:
    """Return `count` distinct chats of about `length` characters.

    Their words are numbers below 100 and words of the policy's vocabulary.
    """
    rng = np.random.default_rng(0)
    text = bundle.featurizer.text
    vocabulary = text.vocabulary if isinstance(text, WordProjection) else PLAIN_WORDS
    words = np.array([*vocabulary, *(str(n) for n in range(100))])
    tasks = bundle.featurizer.tasks
    bodies = []
    for _ in range(count):
        sentence = " ".join(rng.choice(words, size=length // 2)) + "?"
        chat = [{"role": "user", "content": sentence[:length]}]
        bodies.append({"model": bundle.model, "messages": chat, "task": str(rng.choice(tasks))})
    return bodies


def _microseconds(decider: Decider, grid: Grid, bodies: list[dict[str, Any]]) -> list[float]:
    """Return the time of each decision, µs."""
    durations = []
    for body in bodies:
        started = time.perf_counter()
        question = DecisionInput(body["messages"], body["task"], 0, Floors(), grid.current())
        decision = decider.decide(question)
        if decision.steerable:
            draw(decision.probabilities, 0.5)
        durations.append(1e6 * (time.perf_counter() - started))
    return durations
