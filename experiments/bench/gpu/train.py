"""The training phase of `sprout bench gpu`: PPO on the live vector environment."""

import time
from typing import Any

import gymnasium
import numpy as np

from envs.energy.meter import attributed_method
from envs.llama2 import Llama2VectorEnv
from envs.requests.directive import DEFAULT_CATALOGUE, Catalogue, Directive
from experiments.bench.gpu.runs import LENGTHS, Server


def train(server: Server, seconds: float, lanes: int) -> dict[str, Any]:
    """Train PPO on the live vector environment for `seconds`, with metered joules in the reward.

    Args:
        lanes: environments, and so requests in flight.

    Returns:
        Steps, steps per second, and joules per request at the start and the end.
    """
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
        # Random weights give no right answer, so there is no quality to keep.
        floor=0,
        meter=server.meter,
    )
    assert isinstance(env, Llama2VectorEnv)
    rewards: list[float] = []
    joules: list[float] = []
    deadline = time.monotonic() + seconds
    vector = Lanes(env, infos=False)

    class Recorder(BaseCallback):
        """Records the mean reward and joules of each step; stops the training in time."""

        def _on_step(self) -> bool:
            info = vector.last_info
            rewards.append(float(np.mean(self.locals["rewards"])))
            joules.append(float(np.mean(info["energy_joules"])))
            return time.monotonic() < deadline

    started = time.monotonic()
    agent = PPO("MlpPolicy", vector, n_steps=4, batch_size=lanes, gamma=0.0, device="cpu", seed=0)
    agent.learn(1_000_000, callback=Recorder())
    elapsed = time.monotonic() - started
    env.close()
    tenth = max(1, len(joules) // 10)
    return {
        "steps": len(rewards) * lanes,
        "steps_per_second": len(rewards) * lanes / elapsed,
        "energy_method": attributed_method(server.meter.method),
        "rewards_finite": bool(np.isfinite(rewards).all()),
        "joules_per_request_first_tenth": float(np.mean(joules[:tenth])),
        "joules_per_request_last_tenth": float(np.mean(joules[-tenth:])),
    }
