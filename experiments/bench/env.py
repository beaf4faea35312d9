"""`sprout bench env`: speed of the vectorised replay, compared with Gymnasium's SyncVectorEnv."""

import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from pydantic import Field

from envs.outcomes.profile import Profile, profile_table
from envs.outcomes.profile_reader import check_table, read_profile
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.mix import uniform_mix
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from experiments.settings import Settings, write_json

REPLAY = "envs.registration:sprout/Llama2Replay-v0"


class EnvBench(Settings):
    """Compare our vector environment with SyncVectorEnv: requests stepped per second, one core."""

    outcomes: Path | None = Field(None, description="profile to replay; default a generated one")
    lanes: int = Field(4096, ge=1, description="requests per step of the vector environment")
    scalars: int = Field(64, ge=1, description="scalar environments in SyncVectorEnv")
    seconds: float = Field(2.0, gt=0, description="least length of each run")
    repeats: int = Field(5, ge=1, description="runs of each environment, alternating")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Time both environments alternately; print the medians and the range of the ratio."""
        profile = made_up() if self.outcomes is None else read_profile(self.outcomes)
        arguments: dict[str, Any] = {"profile": profile, "mix": uniform_mix(profile.tasks)}
        vector = gymnasium.make_vec(REPLAY, num_envs=self.lanes, **arguments)
        scalars = SyncVectorEnv(
            [lambda: gymnasium.make(REPLAY, disable_env_checker=True, **arguments)] * self.scalars,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        rates = [
            (_rate(vector, self.seconds), _rate(scalars, self.seconds)) for _ in range(self.repeats)
        ]
        ratios = [ours / theirs for ours, theirs in rates]
        result = {
            "lanes": self.lanes,
            "requests_per_second": statistics.median(ours for ours, _ in rates),
            "sync_vector_env_requests_per_second": statistics.median(s for _, s in rates),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
        print(
            f"replay, {self.lanes} lanes: {result['requests_per_second']:,.0f} requests/s\n"
            f"SyncVectorEnv of {self.scalars} scalar environments, same profile: "
            f"{result['sync_vector_env_requests_per_second']:,.0f} requests/s\n"
            f"ratio {result['ratio']:.0f} ({min(ratios):.0f} to {max(ratios):.0f} in "
            f"{self.repeats} runs)"
        )
        write_json(self.json_path, result)


def _rate(env: VectorEnv[Any, Any, Any], seconds: float) -> float:
    """Return requests stepped per second, including the resets of the episodes."""
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(64)]
    env.reset(seed=0)
    steps = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for action in actions:
            env.step(action)
        steps += len(actions)
    return steps * env.num_envs / elapsed


def made_up(per_task: int = 50) -> Profile:
    """Return a profile of generated requests with invented outcomes, for speed tests only."""
    tokens = dict(zip(DEFAULT_CATALOGUE.names, (50, 10, 2), strict=True))
    rows = [_row(r, name, tokens[name]) for r in generate_requests(per_task, 0) for name in tokens]
    return check_table("made-up outcomes", profile_table(rows))


def _row(request: Request, directive: str, tokens: int) -> dict[str, Any]:
    """Return a profile row with invented outcomes."""
    return {
        "request_id": request.request_id,
        "task": request.task,
        "model": "made-up",
        "directive": directive,
        "messages": request.messages_json,
        "prompt_tokens": 20,
        "completion_tokens": tokens,
        "energy_joules": 0.1 * tokens,
        "energy_method": "estimated",
        "latency_seconds": 0.01 * tokens,
        "correct": 1.0,
    }
