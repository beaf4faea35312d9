"""PPO-Lagrangian on stable-baselines3: footprint against per-task quality floors."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from agents.duals import DualCallback, Tracker
from agents.lagrangian import Constraint, Validation
from agents.policy import Policy
from agents.sb3 import Lanes, Normaliser, normalisation
from agents.smoothing import smoothed
from envs.carbon import IntensityTrace
from envs.clock import SteppedClock
from envs.errors import ConfigError
from envs.features import Featurizer
from envs.llama2 import Llama2VectorEnv
from envs.profile import Profile
from envs.replay import ReplayBackend
from envs.reward import reward_from_profile
from envs.world import World, observe, request_parts

# Share of training requests that show their task's tag.
TAG_SHARE = 0.5


@dataclass(frozen=True)
class PpoConfig:
    """Hyperparameters; each says what it does.

    Attributes:
        replay_steps: environment steps on the replay.
        live_steps: environment steps on the live server afterwards; 0 leaves it out.
        lanes, live_lanes: requests a step, replayed or in flight together.
        n_steps, live_n_steps: steps a lane between updates; a dual step follows each.
        learning_rate, live_learning_rate: Adam's.
        entropy: pulls towards trying every directive.
        weight_decay: AdamW's; pulls weights to 0, against memorising prompts.
        hidden: width of the two tanh layers.
        dual_rate: multiplier change per unit of floor shortfall and dual step.
        confidence, safety: standard errors, and a constant, by which a task's validation
            ratio must clear its floor.
        validation_share: share of prompts (by hash) that only steer the multipliers and
            the choice of the checkpoint.
        gamma: 0: a request's directive does not change the next request.
    """

    replay_steps: int = 300_000
    live_steps: int = 512
    lanes: int = 128
    live_lanes: int = 32
    n_steps: int = 8
    live_n_steps: int = 4
    learning_rate: float = 1e-3
    live_learning_rate: float = 1e-4
    entropy: float = 0.01
    weight_decay: float = 0.3
    hidden: int = 32
    dual_rate: float = 1.0
    initial_multiplier: float = 2.0
    confidence: float = 1.645
    safety: float = 0.01
    validation_share: float = 0.3
    gamma: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
        policy: the checkpoint that emitted least on validation prompts among those that
            kept every floor, or else came nearest to keeping them.
        validation: its figures.
        multipliers: at its step.
        steps: environment steps in all.
        floors_kept: whether every floor held on validation prompts, safety included.
    """

    policy: Policy
    featurizer: Featurizer
    validation: Validation
    multipliers: dict[str, float]
    steps: int
    floors_kept: bool


def with_known_quality(profile: Profile, quality: str) -> Profile:
    """The requests of tasks whose quality is known.

    A task without references has no floor that could be kept: it is left out of
    training, of floors and of savings alike, and serving sees it as an unknown task.
    """
    scores = profile.quality(quality)
    rows = np.zeros(len(profile.requests), dtype=bool)
    for task in profile.tasks:
        of_task = profile.rows_of(task)
        if not np.isnan(scores[of_task]).any(axis=1).all():
            rows |= of_task
    if not rows.any():
        raise ConfigError(f"no task of the profile has a known quality {quality!r}")
    return profile.select(rows)


def split(profile: Profile, validation_share: float) -> tuple[Profile, Profile]:
    """Training and validation profiles, by prompt hash."""
    train, validation = profile.split(validation_share, "validation")
    if not train.requests or not validation.requests:
        raise ConfigError(
            f"{len(profile.requests)} requests are too few to train and to validate; record more"
        )
    return train, validation


class Trainer:
    """Trains one policy: first `replay`, then optionally `live`, then `result`."""

    def __init__(
        self,
        profile: Profile,
        trace: IntensityTrace,
        floors: Mapping[str, float],
        config: PpoConfig,
        tracker: Tracker,
        quality: str = "correct",
    ) -> None:
        self._config = config
        self._trace = trace
        self._floors = dict(floors)
        train, validation = split(with_known_quality(profile, quality), config.validation_share)
        self.featurizer = Featurizer(train.tasks)
        self._train = smoothed(train, self.featurizer, quality)
        self.reward = reward_from_profile(
            train, float(trace.g_per_kwh.mean()), self._floors, quality
        )
        self.reward.multipliers = dict.fromkeys(self.reward.floors, config.initial_multiplier)
        constraint = Constraint(
            validation,
            self._train,
            self.featurizer,
            trace,
            self.reward.floors,
            quality=quality,
            rate=config.dual_rate,
            confidence=config.confidence,
            safety=config.safety,
            seed=config.seed,
        )
        self._duals = DualCallback(constraint, self.reward.multipliers, tracker)
        self._weights: Mapping[str, Any] | None = None

    def replay(self) -> None:
        """Train on the replay of the training prompts."""
        config = self._config
        world = World(
            ReplayBackend(self._train),
            self.featurizer,
            self._trace,
            self.reward,
            SteppedClock(60.0),
            n_directives=len(self._train.directives),
            lanes=config.lanes,
            tag_share=TAG_SHARE,
        )
        self._learn(world, config.replay_steps, config.n_steps, config.learning_rate)

    def live(self, world: World) -> None:
        """Go on training on a live world made with this trainer's featurizer and reward."""
        config = self._config
        self._learn(world, config.live_steps, config.live_n_steps, config.live_learning_rate)

    def result(self) -> Trained:
        """The best checkpoint so far."""
        best = self._duals.best
        if best is None:
            raise RuntimeError("nothing has been trained yet")
        return Trained(
            best.policy,
            self.featurizer,
            best.found,
            best.multipliers,
            self._duals.steps_before + self._duals.num_timesteps,
            best.kept,
        )

    def _learn(self, world: World, steps: int, n_steps: int, rate: float) -> None:
        config = self._config
        lanes = Lanes(Llama2VectorEnv(world))
        model = PPO(
            "MlpPolicy",
            lanes,
            n_steps=n_steps,
            batch_size=min(256, n_steps * world.lanes),
            n_epochs=4,
            learning_rate=rate,
            gamma=config.gamma,
            gae_lambda=1.0 if config.gamma == 0 else 0.95,
            ent_coef=config.entropy,
            seed=config.seed,
            device="cpu",
            policy_kwargs=self._policy_arguments(),
        )
        if self._weights is not None:
            model.policy.load_state_dict(self._weights)
        self._duals.steps_before += self._duals.num_timesteps
        model.learn(steps, callback=self._duals)
        self._weights = copy.deepcopy(model.policy.state_dict())

    def _policy_arguments(self) -> dict[str, Any]:
        config = self._config
        parts = request_parts(self.featurizer, self._train.requests)
        count = len(parts)
        # Without some tags they all vary, also where the workload has one task only.
        parts[::2] = request_parts(self.featurizer, self._train.requests[::2], task_tags=False)
        times = np.random.default_rng(config.seed).uniform(
            self._trace.start, self._trace.end, count
        )
        mean, scale = normalisation(
            observe(self.featurizer, parts, self._trace, times, np.zeros(count))
        )
        return {
            "net_arch": [config.hidden, config.hidden],
            "activation_fn": torch.nn.Tanh,
            "features_extractor_class": Normaliser,
            "features_extractor_kwargs": {"mean": mean, "scale": scale},
            "optimizer_class": torch.optim.AdamW,
            "optimizer_kwargs": {"weight_decay": config.weight_decay},
        }

    def configuration(self) -> dict[str, Any]:
        """The hyperparameters as plain data."""
        return asdict(self._config)
