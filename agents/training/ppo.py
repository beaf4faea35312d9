"""PPO-Lagrangian on stable-baselines3: minimise the footprint subject to quality floors."""

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
from agents.training.config import TAG_SHARE, PpoConfig
from agents.training.dual_callback import DualCallback, Tracker
from agents.training.lagrangian import Constraint, Validation
from agents.training.prepared import prepare
from agents.training.progress import Best, Progress, load_progress, save_progress
from agents.training.prompts import PromptSet
from agents.training.sb3 import Lanes, load_policy, policy_arguments, without_distribution_checks
from envs.arrays import Float32Array
from envs.backends.replay import ReplayBackend
from envs.carbon.intensity import IntensityTrace
from envs.clock import SteppedClock
from envs.llama2 import Llama2VectorEnv
from envs.outcomes.floors import floor_schedule
from envs.outcomes.limits import Limit
from envs.outcomes.profile import Profile, fingerprint
from envs.requests.features import Featurizer
from envs.requests.projection import Vectors
from envs.world import World

# Rollouts between checkpoints.
CHECKPOINT_ROLLOUTS = 25
# Replay steps in which the value function is fitted to a given policy.
VALUE_STEPS = 65_536


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes:
        policy: the policy with the lowest validation footprint among those that kept every
            floor; if none did, the one that came nearest to keeping them.
        featurizer: turns requests into this policy's observations.
        validation: metrics of the policy.
        multipliers: Lagrange multipliers when the policy was measured.
        steps: environment steps in total.
        floors_kept: whether every floor held in validation, with `safety` added.
        missed: by how much each floor or limit that was missed was missed, worst first; empty if
            all were kept.
        seconds: wall time of PPO, s, including the measurement of the floors.
    """

    policy: Policy
    featurizer: Featurizer
    validation: Validation
    multipliers: dict[str, float]
    steps: int
    floors_kept: bool
    missed: dict[str, float]
    seconds: float


class Trainer:
    """Trains one policy: call `replay` or `start_from`, then optionally `live`, then `result`.

    Args:
        profile: prompts with their outcomes under every directive.
        trace: carbon intensity of the training hours.
        floors: least quality relative to L0, by task.
        config: hyperparameters.
        tracker: receives the metrics of every rollout.
        quality: "correct" or "preference".
        limits: latency limits by task; None for no limits.
        checkpoints: folder for checkpoints of the replay; None to write none.
        vectors: text encoder used in addition to words; None for words only.
    """

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
        self.prompts = PromptSet(self.prepared, trace, config.seed)
        self.reward.floor_schedule = floor_schedule(trace, config.floor_slack)
        self.reward.limits = dict(limits or {})
        self._constraint = Constraint(self.prompts, self.reward, config)
        self.reward.multipliers = self._constraint.multipliers
        self.reward.latency_prices = self._constraint.prices
        self._dual_callback = DualCallback(
            self._constraint,
            self.reward,
            tracker,
            patience=config.patience,
            keep=None if checkpoints is None else self._save_checkpoint,
            keep_every=CHECKPOINT_ROLLOUTS,
        )
        self._weights: Mapping[str, Any] | None = None
        self._start_policy: Policy | None = None
        self._resumed: Progress | None = None
        self._seconds = 0.0

    def resume(self) -> int:
        """Continue from the last checkpoint of the replay; return its environment steps.

        Raises:
            DataError: there is no checkpoint, or it belongs to a different training.
        """
        assert self._checkpoints is not None
        progress = load_progress(self._checkpoints, self._identity())
        self._resumed = progress
        self._dual_callback.best = progress.best
        self._dual_callback.resumed_average = progress.average
        self._constraint.restore(progress.levels)
        self.reward.set_multipliers(progress.multipliers)
        return progress.steps

    def _identity(self) -> dict[str, Any]:
        """Return the data and settings that a checkpoint must share with this training."""
        return {
            "data": fingerprint(self.prepared.known),
            "quality": self.prepared.quality,
            "intensity": self._trace.sha256,
            "text": self.prepared.text_sha256,
            "floors": self.reward.floors,
            "limits": {task: asdict(limit) for task, limit in self.reward.limits.items()},
            "settings": asdict(self._config),
        }

    def _save_checkpoint(self, model: PPO) -> None:
        assert self._checkpoints is not None
        assert self._dual_callback.best is not None
        progress = Progress(
            steps=model.num_timesteps,
            levels=dict(self._constraint.levels),
            multipliers=self.reward.multipliers | self.reward.latency_prices,
            best=self._dual_callback.best,
            weights=model.policy.state_dict(),
            optimiser=model.policy.optimizer.state_dict(),
            average=self._dual_callback.average,
            identity=self._identity(),
        )
        save_progress(self._checkpoints, model, progress)

    def start_from(self, policy: Policy, multipliers: Mapping[str, float]) -> None:
        """Continue from a finished policy instead of training on the replay.

        A bundle has no value function, so one is fitted on the replay while the policy is frozen.

        Args:
            policy: the finished policy.
            multipliers: its Lagrange multipliers by constraint.

        Raises:
            ValueError: the policy's network does not have this trainer's shape.
        """
        self._start_policy = policy
        self.reward.set_multipliers(multipliers)
        self._constraint.restore({name: math.log(m) for name, m in multipliers.items() if m > 0})
        validation = self._constraint.measure(policy)
        kept = self._constraint.kept(validation)
        self._dual_callback.best = Best(policy, validation, dict(multipliers), kept)
        config = self._config
        model = self._model(self._replay_world(), config.n_steps, config.learning_rate)
        for part in (model.policy.mlp_extractor.policy_net, model.policy.action_net):
            part.requires_grad_(False)
        model.learn(VALUE_STEPS)
        self._weights = copy.deepcopy(model.policy.state_dict())

    def replay(self) -> None:
        """Train on the replayed training prompts."""
        config = self._config
        self._learn(self._replay_world(), config.replay_steps, config.n_steps, config.learning_rate)

    def _replay_world(self) -> World:
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
        """Continue training on a live world that uses this trainer's featurizer and reward."""
        config = self._config
        self._learn(world, config.live_steps, config.live_n_steps, config.live_learning_rate)

    def result(self) -> Trained:
        """Return the best policy so far; raise RuntimeError before any training."""
        if (best := self._dual_callback.best) is None:
            raise RuntimeError(
                "Trainer.result: nothing is trained yet; call replay or start_from first"
            )
        return Trained(
            policy=best.policy,
            featurizer=self.featurizer,
            validation=best.validation,
            multipliers=best.multipliers,
            steps=self._dual_callback.steps,
            floors_kept=best.kept,
            missed=self._constraint.missed(best.validation),
            seconds=self._seconds,
        )

    def _model(self, world: World, n_steps: int, rate: float) -> PPO:
        config = self._config
        model = PPO(
            "MlpPolicy",
            Lanes(Llama2VectorEnv(world), infos=config.gamma > 0),
            n_steps=n_steps,
            batch_size=min(config.batch, n_steps * world.lanes),
            n_epochs=config.epochs,
            learning_rate=lambda remaining: rate * remaining,
            gamma=config.gamma,
            gae_lambda=1.0 if config.gamma == 0 else 0.95,
            ent_coef=config.entropy,
            seed=config.seed,
            device="cpu",
            policy_kwargs=policy_arguments(
                *self._normalisation(), config.hidden, config.weight_decay
            ),
        )
        # The tracker records the metrics; SB3's own logger would create a folder in each run.
        model.set_logger(Logger(folder=None, output_formats=[]))
        if self._weights is not None:
            model.policy.load_state_dict(self._weights)
        elif self._start_policy is not None:
            load_policy(self._start_policy, model.policy)
        return model

    def _learn(self, world: World, steps: int, n_steps: int, rate: float) -> None:
        config = self._config
        model = self._model(world, n_steps, rate)
        self._dual_callback.steps_before += self._dual_callback.num_timesteps
        if (progress := self._resumed) is not None:
            model.policy.load_state_dict(progress.weights)
            model.policy.optimizer.load_state_dict(dict(progress.optimiser))
            model.num_timesteps = progress.steps
            steps = max(0, steps - progress.steps)
            # Avoids repeating the random numbers of the interrupted part.
            model.set_random_seed(config.seed + progress.steps)
        started = time.perf_counter()
        with without_distribution_checks():
            model.learn(
                steps, callback=self._dual_callback, reset_num_timesteps=self._resumed is None
            )
        self._resumed = None
        self._seconds += time.perf_counter() - started
        self._weights = copy.deepcopy(model.policy.state_dict())

    def _normalisation(self) -> tuple[Float32Array, Float32Array]:
        """Return mean and scale of each feature: the start policy's, or else the profile's."""
        if self._start_policy is not None:
            return self._start_policy.mean, self._start_policy.scale
        mean, scale = self.prepared.normalisation(self._trace, self._config.seed)
        for group in self._config.without:
            scale[self.featurizer.groups[group]] = 0
        return mean, scale
