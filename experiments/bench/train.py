"""`sprout bench train`: speed of training, compared with stable-baselines3's default PPO."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import torch
from pydantic import Field
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.training.config import PpoConfig
from envs.carbon.csv_traces import synthetic_day
from envs.outcomes.profile import Profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import DEFAULT_CATALOGUE
from experiments.bench.env import REPLAY, made_up
from experiments.settings import Settings, write_json
from experiments.tracking import NullRun
from experiments.train.job import TrainingJob

SCALARS = 8


class TrainBench(Settings):
    """Measure seconds from profile to bundle and PPO steps per second, on one thread.

    The peer is PPO("MlpPolicy") with its default settings on 8 scalar environments of the
    same profile, as in the documentation of stable-baselines3.
    """

    outcomes: Path | None = Field(None, description="profile to train on; default a generated one")
    steps: int = Field(PpoConfig.replay_steps, ge=4096, description="environment steps of our PPO")
    peer_steps: int = Field(16_384, ge=2048, description="environment steps of the peer")
    repeats: int = Field(3, ge=1, description="runs of each training, alternating")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Time both trainings alternately; print medians and ranges and write the JSON result."""
        torch.set_num_threads(1)
        profile = made_up(1000) if self.outcomes is None else read_profile(self.outcomes)
        runs = [(self._ours(profile), self._peer(profile)) for _ in range(self.repeats)]
        seconds = [ours["seconds"] for ours, _ in runs]
        rates = [ours["rate"] for ours, _ in runs]
        peers = [peer for _, peer in runs]
        ratios = [rate / peer for rate, peer in zip(rates, peers, strict=True)]
        result = {
            "steps": self.steps,
            "requests": len(profile.requests),
            "profile_to_bundle_seconds": statistics.median(seconds),
            "profile_to_bundle_seconds_range": [min(seconds), max(seconds)],
            "ppo_steps_per_second": statistics.median(rates),
            "ppo_steps_per_second_range": [min(rates), max(rates)],
            "sb3_default_steps_per_second": statistics.median(peers),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
        print(
            f"{len(profile.requests):,} requests to a bundle, {self.steps:,} steps: "
            f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f} in "
            f"{self.repeats} runs)\n"
            f"PPO: {statistics.median(rates):,.0f} steps/s "
            f"({min(rates):,.0f} to {max(rates):,.0f})\n"
            f"PPO of stable-baselines3 by default, {SCALARS} scalar environments: "
            f"{statistics.median(peers):,.0f} steps/s\n"
            f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        )
        write_json(self.json_path, result)

    def _ours(self, profile: Profile) -> dict[str, float]:
        """Train a bundle; return the seconds it took and the PPO steps per second."""
        config = PpoConfig(replay_steps=self.steps, live_steps=0)
        floors = dict.fromkeys(profile.tasks, 0.95)
        job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), floors, config)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            _, trained = job.run(Path(folder), NullRun())
        elapsed = time.perf_counter() - started
        return {"seconds": elapsed, "rate": trained.steps / trained.seconds["ppo"]}

    def _peer(self, profile: Profile) -> float:
        """Train stable-baselines3's PPO with its defaults; return steps per second."""

        def make() -> Any:
            return gymnasium.make(REPLAY, profile=profile)

        model = PPO("MlpPolicy", DummyVecEnv([make] * SCALARS), device="cpu", seed=0)
        started = time.perf_counter()
        model.learn(self.peer_steps)
        return model.num_timesteps / (time.perf_counter() - started)
