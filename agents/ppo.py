"""PPO-Lagrangian on stable-baselines3: footprint against per-task quality floors."""

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from agents.config import PpoConfig
from agents.duals import DualCallback, Tracker
from agents.lagrangian import Constraint, Validation
from agents.policy import Policy
from agents.prepared import prepare
from agents.prompts import Prompts
from agents.resume import Progress, load_progress, save_progress
from agents.sb3 import Lanes, Normaliser, normalisation
from envs.carbon import IntensityTrace
from envs.clock import SteppedClock
from envs.features import Featurizer
from envs.limits import Limit
from envs.llama2 import Llama2VectorEnv
from envs.profile import Profile, fingerprint
from envs.replay import ReplayBackend
from envs.world import World, observe

# Share of training requests that show their task's tag.
TAG_SHARE = 0.5
CHECKPOINT_ROLLOUTS = 25


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
        seconds: that PPO took, its checks of the floors included.
    """

    policy: Policy
    featurizer: Featurizer
    validation: Validation
    multipliers: dict[str, float]
    steps: int
    floors_kept: bool
    seconds: float


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
        limits: Mapping[str, Limit] | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        self._config = config
        self._checkpoints = checkpoints
        self._trace = trace
        self._prepared = prepare(
            profile,
            floors,
            float(trace.g_per_kwh.mean()),
            quality=quality,
            floor_on=config.floor_on,
            seed=config.seed,
        )
        self.featurizer, self.reward = self._prepared.featurizer, self._prepared.reward
        prompts = Prompts(self._prepared, trace, config.seed)
        self.reward.limits = dict(limits or {})
        self._constraint = Constraint(prompts, self.reward, config)
        self.reward.multipliers = self._constraint.multipliers
        self.reward.latency_prices = self._constraint.prices
        self._duals = DualCallback(
            self._constraint,
            self.reward,
            tracker,
            patience=config.patience,
            keep=None if checkpoints is None else self._keep,
            keep_every=CHECKPOINT_ROLLOUTS,
        )
        self._weights: Mapping[str, Any] | None = None
        self._resumed: Progress | None = None
        self._seconds = 0.0

    def resume(self) -> int:
        """Go on from the last checkpoint of the replay; returns its steps.

        Raises:
            DataError: there is none, or it is another training's.
        """
        if self._checkpoints is None:
            raise ValueError("this trainer has no checkpoints")
        progress = load_progress(self._checkpoints, self._identity())
        self._resumed = progress
        self._duals.best = progress.best
        self._constraint.restore(progress.levels)
        self.reward.set_prices(progress.multipliers)
        return progress.steps

    def _identity(self) -> dict[str, Any]:
        return {
            "data": fingerprint(self._prepared.known),
            "floors": self.reward.floors,
            "limits": {task: asdict(limit) for task, limit in self.reward.limits.items()},
            "settings": asdict(self._config),
        }

    def _keep(self, model: PPO) -> None:
        assert self._checkpoints is not None
        assert self._duals.best is not None
        save_progress(
            self._checkpoints,
            model,
            self._duals.best,
            self._constraint.levels,
            self.reward.multipliers | self.reward.latency_prices,
            model.num_timesteps,
            self._identity(),
        )

    def replay(self) -> None:
        """Train on the replay of the training prompts."""
        config = self._config
        world = World(
            ReplayBackend(self._prepared.expected),
            self.featurizer,
            self._trace,
            self.reward,
            SteppedClock(60.0),
            n_directives=len(self._prepared.known.directives),
            lanes=config.lanes,
            tag_share=TAG_SHARE,
            parts=self._prepared.parts,
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
            self._duals.steps,
            best.kept,
            self._seconds,
        )

    def _learn(self, world: World, steps: int, n_steps: int, rate: float) -> None:
        config = self._config
        lanes = Lanes(Llama2VectorEnv(world))
        model = PPO(
            "MlpPolicy",
            lanes,
            n_steps=n_steps,
            batch_size=min(config.batch, n_steps * world.lanes),
            n_epochs=config.epochs,
            learning_rate=lambda left: rate * left,
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
        if (progress := self._resumed) is not None:
            model.policy.load_state_dict(progress.weights)
            model.policy.optimizer.load_state_dict(dict(progress.optimiser))
            model.num_timesteps = progress.steps
            steps = max(0, steps - progress.steps)
            # Other random numbers than the first part's.
            model.set_random_seed(config.seed + progress.steps)
        started = time.perf_counter()
        model.learn(steps, callback=self._duals, reset_num_timesteps=self._resumed is None)
        self._resumed = None
        self._seconds += time.perf_counter() - started
        self._weights = copy.deepcopy(model.policy.state_dict())

    def _policy_arguments(self) -> dict[str, Any]:
        config = self._config
        # Without some tags they all vary, also where the workload has one task only.
        parts = np.concatenate(self._prepared.parts)
        count = len(parts)
        times = np.random.default_rng(config.seed).uniform(
            self._trace.start, self._trace.end, count
        )
        mean, scale = normalisation(
            observe(self.featurizer, parts, self._trace, times, np.zeros(count))
        )
        for group in config.without:
            scale[self.featurizer.groups[group]] = 0
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
