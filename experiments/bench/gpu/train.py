"""PPO on the live vector environment, as `sprout bench gpu` measures it."""

import time
from typing import Any

import gymnasium
import numpy as np

from envs.energy.meter import attributed_method
from envs.llama2 import Llama2VectorEnv
from envs.requests.directive import DEFAULT_CATALOGUE, Catalogue, Directive
from experiments.bench.gpu.runs import LENGTHS, Server


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
