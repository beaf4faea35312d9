"""`sprout episodes`: record replayed episodes as a Minari dataset, for offline RL."""

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.storage.datasets_root_dir import get_dataset_path
from pydantic import Field

import envs.registration
from agents.policy.bundle import Bundle, load_bundle
from envs.arrays import AnyArray, Float64Array
from envs.errors import ConfigError
from envs.llama2 import Llama2VectorEnv
from envs.problem.constraints import DEFAULT_FLOOR
from envs.world import MAX_EPISODE_STEPS
from experiments.settings import Settings

ENVIRONMENT = "sprout/Llama2Replay-v0"
NAME = re.compile(r"(\w[\w-]*/)*\w[\w-]*-v\d+", re.ASCII)
# What `info` says of each step, beside the propensity and the costs.
RECORDED = (
    *("footprint_grams", "energy_joules", "latency_seconds", "completion_tokens"),
    *("correct", "preference", "carbon_intensity", "cost", "row"),
)


class Episodes(Settings):
    """Play episodes of the replay environment and record them as a Minari dataset.

    With --policy the environment is the problem that the bundle was trained on, and its policy
    draws the directives; without it every allowed directive is equally likely. Each step's info
    has the propensity of its action, for off-policy evaluation.
    """

    outcomes: Path = Field(description="profile of recorded outcomes (Parquet)")
    model: str | None = Field(None, description="model whose rows of the profile to use")
    dataset: str = Field(description="name of the dataset, such as sprout/my-profile/random-v0")
    out: Path | None = Field(
        None, description="folder for Minari's datasets; default MINARI_DATASETS_PATH or Minari's"
    )
    policy: Path | None = Field(
        None, description="bundle whose policy chooses; default every directive equally often"
    )
    intensity: list[Path] = Field(
        [], description="intensity CSVs or folders of them; default a synthetic day"
    )
    zone: str | None = Field(None, description="grid zone; default the joined hours of all zones")
    quality: Literal["correct", "preference"] | None = Field(
        None, description="quality that the floors apply to; default correct, or the bundle's"
    )
    floor: float | None = Field(
        None,
        description=f"lowest quality relative to L0; default {DEFAULT_FLOOR}, or the bundle's",
    )
    hold_out: float = Field(
        0.0, description="share of the prompts, by hash, that --split leaves out or takes"
    )
    split: Literal["all", "train", "held_out"] | None = Field(
        None, description="prompts to replay; default all, or the bundle's training prompts"
    )
    episodes: int = Field(
        100,
        ge=1,
        le=500,
        description="number of episodes; Minari's writing slows with it, so give more --steps",
    )
    steps: int = Field(MAX_EPISODE_STEPS, ge=1, description="requests of an episode")
    seed: int = Field(0, ge=0, description="seed of the first episode; the others follow it")

    def cli_cmd(self) -> None:
        """Play, record and say how to load the dataset."""
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            os.environ["MINARI_DATASETS_PATH"] = str(self.out.resolve())
        self._check()
        bundle = None if self.policy is None else load_bundle(self.policy)
        arguments = self._arguments()
        spec = gymnasium.make(ENVIRONMENT, max_episode_steps=self.steps, **arguments).spec
        vector = gymnasium.make_vec(
            ENVIRONMENT, num_envs=self.episodes, max_episode_steps=self.steps, **arguments
        )
        assert isinstance(vector, Llama2VectorEnv)
        write(self.dataset, spec, played(vector, bundle, self.seed), bundle)
        print(f"{self.episodes} episodes of {self.steps} requests in {self.dataset}")
        if self.out is not None:
            print(f"to load it, set MINARI_DATASETS_PATH={self.out.resolve()}")

    def _check(self) -> None:
        """Raise ConfigError if the flags contradict each other, or the name cannot be used."""
        if not NAME.fullmatch(self.dataset):
            raise ConfigError(
                f"--dataset {self.dataset}: give NAMESPACE/NAME-vNUMBER, such as "
                "sprout/my-profile/random-v0"
            )
        if Path(get_dataset_path(self.dataset)).exists():
            raise ConfigError(
                f"--dataset {self.dataset}: there is such a dataset; give another name or version"
            )
        fixed = {"model", "quality", "floor", "hold_out"} & self.model_fields_set
        if self.policy is not None and fixed:
            flag = min(fixed).replace("_", "-")
            raise ConfigError(f"--{flag}: with --policy the bundle fixes it; leave it out")

    def _arguments(self) -> dict[str, Any]:
        """Return the environment's arguments as plain types: the dataset keeps them as JSON."""
        arguments: dict[str, Any] = {
            "profile": str(self.outcomes.resolve()),
            "model": self.model,
            "intensity": [str(path.resolve()) for path in self.intensity] or None,
            "zone": self.zone,
            "quality": self.quality,
            "floor": self.floor,
            "like": None if self.policy is None else str(self.policy.resolve()),
            "split": self.split,
            "hold_out": self.hold_out or None,
        }
        return {name: value for name, value in arguments.items() if value is not None}


def played(env: Llama2VectorEnv, bundle: Bundle | None, seed: int) -> list[dict[str, Any]]:
    """Play one episode in every lane; return each as the arrays of a Minari episode.

    Args:
        bundle: whose policy chooses; None for every allowed directive equally often.
        seed: seed of the first lane; lane i is the scalar environment with seed + i.

    Returns:
        By lane: seed, observations (steps + 1, n_features), actions, rewards, terminations and
        truncations (steps,), and infos (steps + 1,), whose first entry is that of the reset.
    """
    # Not the generator of a lane: actions must not depend on the hours and requests drawn.
    rng = np.random.default_rng([seed, 1])
    lanes = np.arange(env.num_envs)
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [observation], [], []
    infos: list[dict[str, AnyArray]] = []
    truncated = np.zeros(env.num_envs, dtype=bool)
    while not truncated.all():
        chance = _chances(env, bundle, observation)
        # The least index whose cumulated probability exceeds a uniform draw.
        draws = rng.random((env.num_envs, 1))
        action = np.minimum((draws >= chance.cumsum(axis=1)).sum(axis=1), chance.shape[1] - 1)
        observation, reward, _, truncated, info = env.step(action)
        observations.append(info["final_obs"] if truncated.all() else observation)
        actions.append(action)
        rewards.append(reward)
        kept = {name: info[name] for name in RECORDED}
        kept |= {f"cost of {name}": cost for name, cost in info["costs"].items()}
        infos.append({**kept, "propensity": chance[lanes, action]})
    steps = len(actions)
    return [
        {
            "seed": seed + int(lane),
            "observations": np.stack([each[lane] for each in observations]),
            "actions": np.array([each[lane] for each in actions]),
            "rewards": np.array([each[lane] for each in rewards]),
            "terminations": np.zeros(steps, dtype=bool),
            "truncations": np.arange(steps) == steps - 1,
            # Lists: Minari writes arrays of one dimension, but cannot read them.
            "infos": {
                name: [float("nan"), *(float(each[name][lane]) for each in infos)]
                for name in infos[0]
            },
        }
        for lane in lanes
    ]


def _chances(env: Llama2VectorEnv, bundle: Bundle | None, observations: Any) -> Float64Array:
    """Return the probability of each directive in each lane, shape (lanes, n_directives)."""
    masks = env.action_masks()
    if bundle is None:
        chances: Float64Array = masks / masks.sum(axis=1, keepdims=True)
        return chances
    return bundle.policy.allowed(observations, np.asarray(masks.all(axis=1)))


def write(name: str, spec: Any, episodes: list[dict[str, Any]], bundle: Bundle | None) -> None:
    """Write episodes as a Minari dataset.

    Args:
        name: the dataset's; must not exist yet.
        spec: of the scalar environment, from which Minari makes it again.
        episodes: from `played`.
        bundle: whose policy chose, or None.
    """
    try:
        with warnings.catch_warnings():
            # Minari asks for an author and the like.
            warnings.simplefilter("ignore", UserWarning)
            minari.create_dataset_from_buffers(
                name,
                [EpisodeBuffer(id=number, **each) for number, each in enumerate(episodes)],
                env=spec,
                algorithm_name="uniform" if bundle is None else f"policy {bundle.version}",
                description="Requests under generation directives, replayed by Sprout-RL "
                f"{envs.__version__}. infos: the step's outcome and the action's propensity.",
                data_format="arrow",
            )
    except BaseException:
        # Half a dataset would be taken for a whole one.
        shutil.rmtree(get_dataset_path(name), ignore_errors=True)
        raise
