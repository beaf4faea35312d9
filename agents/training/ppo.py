"""PPO-Lagrangian on stable-baselines3: footprint against per-task quality floors."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from agents.policy.network import Policy
from agents.training.config import PpoConfig
from agents.training.dual_callback import DualCallback, Tracker
from agents.training.lagrangian import Constraint, Validation
from agents.training.prepared import prepare
from agents.training.progress import Best, Progress, load_progress, save_progress
from agents.training.prompts import PromptSet
from agents.training.sb3 import Lanes, imported, policy_arguments, unchecked
from envs.arrays import Float32Array
from envs.carbon.intensity import IntensityTrace
from envs.clock import SteppedClock
from envs.llama2 import Llama2VectorEnv
from envs.outcomes.floors import floor_schedule
from envs.outcomes.limits import Limit
from envs.outcomes.profile import Profile, fingerprint
from envs.replay import ReplayBackend
from envs.requests.features import Featurizer
from envs.requests.projection import Vectors
from envs.world import World

# Share of training requests that show their task's tag.
TAG_SHARE = 0.5
CHECKPOINT_ROLLOUTS = 25
# Steps on the replay in which the value function learns what a given policy earns.
VALUE_STEPS = 65_536


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
    """Trains one policy: `replay` or `start_from`, then optionally `live`, then `result`."""

    def __init__(  # noqa: PLR0913, the configuration of a training
        self,
        profile: Profile,
        trace: IntensityTrace,
        floors: Mapping[str, float],
        config: PpoConfig,
        tracker: Tracker,
        quality: str = "correct",
        limits: Mapping[str, Limit] | None = None,
        checkpoints: Path | None = None,
        vectors: Vectors | None = None,
    ) -> None:
        self._config = config
        self._checkpoints = checkpoints
        self._trace = trace
        self.prepared = prepare(
            profile,
            floors,
            float(trace.g_per_kwh.mean()),
            quality=quality,
            floor_on=config.floor_on,
            seed=config.seed,
            vectors=vectors,
        )
        self.featurizer, self.reward = self.prepared.featurizer, self.prepared.reward
        prompts = PromptSet(self.prepared, trace, config.seed)
        self.reward.floor_schedule = floor_schedule(trace, config.floor_slack)
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
        self._given: Policy | None = None
        self._resumed: Progress | None = None
        self._seconds = 0.0

    def resume(self) -> int:
        """Go on from the last checkpoint of the replay; returns its steps.

        Raises:
            DataError: there is none, or it is another training's.
        """
        assert self._checkpoints is not None
        progress = load_progress(self._checkpoints, self._identity())
        self._resumed = progress
        self._duals.best = progress.best
        self._duals.resumed_average = progress.average
        self._constraint.restore(progress.levels)
        self.reward.set_prices(progress.multipliers)
        return progress.steps

    def _identity(self) -> dict[str, Any]:
        return {
            "data": fingerprint(self.prepared.known),
            "quality": self.prepared.quality,
            "intensity": self._trace.sha256,
            "text": self.prepared.text_sha256,
            "floors": self.reward.floors,
            "limits": {task: asdict(limit) for task, limit in self.reward.limits.items()},
            "settings": asdict(self._config),
        }

    def _keep(self, model: PPO) -> None:
        assert self._checkpoints is not None
        assert self._duals.best is not None
        progress = Progress(
            steps=model.num_timesteps,
            levels=dict(self._constraint.levels),
            multipliers=self.reward.multipliers | self.reward.latency_prices,
            best=self._duals.best,
            weights=model.policy.state_dict(),
            optimiser=model.policy.optimizer.state_dict(),
            average=self._duals.average,
            identity=self._identity(),
        )
        save_progress(self._checkpoints, model, progress)

    def start_from(self, policy: Policy, multipliers: Mapping[str, float]) -> None:
        """Go on from a finished policy, in place of the replay.

        A bundle has no value function: it is learned anew on the replay, while the policy
        stays as it is.

        Raises:
            ValueError: the policy has another shape than this trainer's.
        """
        self._given = policy
        self.reward.set_prices(multipliers)
        self._constraint.restore({name: math.log(m) for name, m in multipliers.items() if m > 0})
        found = self._constraint.measure(policy)
        self._duals.best = Best(policy, found, dict(multipliers), self._constraint.kept(found))
        config = self._config
        model = self._model(self._replayed(), config.n_steps, config.learning_rate)
        for part in (model.policy.mlp_extractor.policy_net, model.policy.action_net):
            part.requires_grad_(False)
        model.learn(VALUE_STEPS)
        self._weights = copy.deepcopy(model.policy.state_dict())

    def replay(self) -> None:
        """Train on the replay of the training prompts."""
        config = self._config
        self._learn(self._replayed(), config.replay_steps, config.n_steps, config.learning_rate)

    def _replayed(self) -> World:
        config = self._config
        return World(
            ReplayBackend(self.prepared.expected),
            self.featurizer,
            self._trace,
            self.reward,
            SteppedClock(60.0),
            n_directives=len(self.prepared.known.directives),
            lanes=config.lanes,
            tag_share=TAG_SHARE,
            parts=self.prepared.parts,
        )

    def live(self, world: World) -> None:
        """Go on training on a live world made with this trainer's featurizer and reward."""
        config = self._config
        self._learn(world, config.live_steps, config.live_n_steps, config.live_learning_rate)

    def result(self) -> Trained:
        """The best checkpoint so far."""
        if (best := self._duals.best) is None:
            raise RuntimeError("nothing has been trained yet")
        return Trained(
            policy=best.policy,
            featurizer=self.featurizer,
            validation=best.found,
            multipliers=best.multipliers,
            steps=self._duals.steps,
            floors_kept=best.kept,
            seconds=self._seconds,
        )

    def _model(self, world: World, n_steps: int, rate: float) -> PPO:
        config = self._config
        model = PPO(
            "MlpPolicy",
            Lanes(Llama2VectorEnv(world), config.gamma),
            n_steps=n_steps,
            batch_size=min(config.batch, n_steps * world.lanes),
            n_epochs=config.epochs,
            learning_rate=lambda left: rate * left,
            gamma=config.gamma,
            gae_lambda=1.0 if config.gamma == 0 else 0.95,
            ent_coef=config.entropy,
            seed=config.seed,
            device="cpu",
            policy_kwargs=policy_arguments(
                *self._normalisation(), config.hidden, config.weight_decay
            ),
        )
        # The tracker has the figures; SB3's own logger leaves a folder behind in each run.
        model.set_logger(Logger(folder=None, output_formats=[]))
        if self._weights is not None:
            model.policy.load_state_dict(self._weights)
        elif self._given is not None:
            imported(self._given, model.policy)
        return model

    def _learn(self, world: World, steps: int, n_steps: int, rate: float) -> None:
        config = self._config
        model = self._model(world, n_steps, rate)
        self._duals.steps_before += self._duals.num_timesteps
        if (progress := self._resumed) is not None:
            model.policy.load_state_dict(progress.weights)
            model.policy.optimizer.load_state_dict(dict(progress.optimiser))
            model.num_timesteps = progress.steps
            steps = max(0, steps - progress.steps)
            # Other random numbers than the first part's.
            model.set_random_seed(config.seed + progress.steps)
        started = time.perf_counter()
        with unchecked():
            model.learn(steps, callback=self._duals, reset_num_timesteps=self._resumed is None)
        self._resumed = None
        self._seconds += time.perf_counter() - started
        self._weights = copy.deepcopy(model.policy.state_dict())

    def _normalisation(self) -> tuple[Float32Array, Float32Array]:
        """Mean and scale of each feature: the given policy's, or those of this profile."""
        if self._given is not None:
            return self._given.mean, self._given.scale
        mean, scale = self.prepared.normalisation(self._trace, self._config.seed)
        for group in self._config.without:
            scale[self.featurizer.groups[group]] = 0
        return mean, scale
