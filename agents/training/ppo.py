"""A policy for every floor: a supervised start, PPO (stable-baselines3), then the prices."""

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from agents.policy.front import Front
from agents.policy.network import Policy
from agents.policy.pricing import pricing_of
from agents.training.callback import AverageCallback, Tracker
from agents.training.config import TAG_SHARE, PpoConfig
from agents.training.fronts import (
    Validation,
    check_constraints,
    measure_front,
    probe,
    validate,
)
from agents.training.prepared import prepare
from agents.training.progress import Progress, load_progress, save_progress
from agents.training.prompts import PromptSet
from agents.training.sb3 import (
    Lanes,
    export_policy,
    load_policy,
    policy_arguments,
    without_distribution_checks,
)
from agents.training.supervised import Losses, fit_start
from envs.arrays import Float32Array, Float64Array
from envs.backends.replay import ReplayBackend
from envs.carbon.intensity import IntensityTrace
from envs.clock import SteppedClock
from envs.llama2 import Llama2VectorEnv
from envs.money import Tariff
from envs.outcomes.floors import floor_schedule
from envs.outcomes.limits import Limit
from envs.outcomes.objective import make_objective
from envs.outcomes.profile import Profile, fingerprint
from envs.requests.features import Featurizer
from envs.requests.projection import Vectors
from envs.world import World

# Rollouts between checkpoints.
CHECKPOINT_ROLLOUTS = 25
# Replay steps in which the value function is fitted to a given policy.
VALUE_STEPS = 65_536


@dataclass(frozen=True)
class Costs:
    """Parts of the policy's cost.

    Attributes:
        weights: weight of each of `envs.outcomes.objective.WEIGHTS`.
        tariff: prices in money; None if money has no weight.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"grams": 1.0})
    tariff: Tariff | None = None


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes:
        policy: the policy.
        featurizer: turns requests into this policy's observations.
        front: quality and costs of the policy at every price.
        validation: metrics of the policy at the prices of its floors.
        chances: probabilities of the directives at these prices, shape (2, n, n_directives): for
            each prompt without and with its tag, in the mean over the zones.
        steps: environment steps in total.
        seconds: wall time of supervised start, PPO and the search for prices, s, by name.
        start: losses of the supervised start; None if there was none.
    """

    policy: Policy
    featurizer: Featurizer
    front: Front
    validation: Validation
    chances: Float64Array
    steps: int
    seconds: Mapping[str, float]
    start: Losses | None

    @property
    def floors_kept(self) -> bool:
        """True if every floor and limit held in validation, with `safety` added to floors."""
        return not self.validation.missed


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
        costs: parts of the policy's cost.
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
        costs: Costs = Costs(),
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
        self.reward.floor_schedule = floor_schedule(trace, config.floor_slack)
        self.reward.limits = dict(limits or {})
        self.reward.objective = make_objective(
            costs.weights, costs.tariff, self.prepared.known.outcomes
        )
        zones = (trace,) if config.pool_zones else trace.parts or (trace,)
        self.sets = [PromptSet(self.prepared, zone, config.seed) for zone in zones]
        check_constraints(self.sets, self.reward, config)
        self._callback = AverageCallback(
            tracker,
            lambda policy: probe(policy, self.sets[0]),
            keep=None if checkpoints is None else self._save_checkpoint,
            keep_every=CHECKPOINT_ROLLOUTS,
        )
        self._weights: Mapping[str, Any] | None = None
        self._policy: Policy | None = None
        self._supervised: Policy | None = None
        self._start_policy: Policy | None = None
        self._resumed: Progress | None = None
        self._seconds: dict[str, float] = {}
        self._losses: Losses | None = None

    def resume(self) -> int:
        """Continue from the last checkpoint of the replay; return its environment steps.

        Raises:
            DataError: there is no checkpoint, or it belongs to a different training.
        """
        assert self._checkpoints is not None
        progress = load_progress(self._checkpoints, self._identity())
        self._resumed = progress
        self._callback.resumed_average = progress.average
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
            "objective": asdict(self.reward.objective),
            "settings": asdict(self._config),
        }

    def _save_checkpoint(self, model: PPO) -> None:
        assert self._checkpoints is not None
        progress = Progress(
            steps=model.num_timesteps,
            weights=model.policy.state_dict(),
            optimiser=model.policy.optimizer.state_dict(),
            average=self._callback.average,
            identity=self._identity(),
        )
        save_progress(self._checkpoints, model, progress)

    def start_from(self, policy: Policy) -> None:
        """Continue from a finished policy instead of training on the replay.

        A bundle has no value function, so one is fitted on the replay while the policy is frozen.

        Raises:
            ValueError: the policy's network does not have this trainer's shape.
        """
        self._policy = policy.sharpened(1 / self._config.sharpness)
        self._start_policy = self._policy
        config = self._config
        model = self._model(self._replay_world(), config.n_steps, config.learning_rate)
        for part in (model.policy.mlp_extractor.policy_net, model.policy.action_net):
            part.requires_grad_(False)
        model.learn(VALUE_STEPS)
        self._weights = copy.deepcopy(model.policy.state_dict())

    def replay(self) -> None:
        """Train on the replayed training prompts."""
        config = self._config
        if config.start_batches and self._resumed is None:
            self._start()
        if config.replay_steps:
            world = self._replay_world()
            self._learn(world, config.replay_steps, config.n_steps, config.learning_rate)

    def _start(self) -> None:
        started = time.perf_counter()
        world = self._replay_world()
        model = self._model(world, 1, self._config.start_rate)
        self._losses = fit_start(model.policy, world, self._config)
        self._weights = copy.deepcopy(model.policy.state_dict())
        self._policy = self._supervised = export_policy(model.policy)
        self._seconds["start"] = time.perf_counter() - started

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
            price_range=config.price_range,
        )

    def live(self, world: World) -> None:
        """Continue training on a live world that uses this trainer's featurizer and reward."""
        config = self._config
        self._learn(world, config.live_steps, config.live_n_steps, config.live_learning_rate)

    def result(self) -> Trained:
        """Find the prices of the latest policy; raise RuntimeError before any training."""
        return self._found(self._policy)

    def start_result(self) -> Trained:
        """Find the prices of the policy before PPO's first step; raise RuntimeError without one."""
        return self._found(self._supervised)

    def _found(self, policy: Policy | None) -> Trained:
        if policy is None:
            raise RuntimeError("Trainer: nothing is trained yet; call replay or start_from first")
        started = time.perf_counter()
        config = self._config
        policy = policy.sharpened(config.sharpness)
        front = measure_front(policy, self.sets, self.reward, config)
        # As the bundle's manifest will say it.
        said = {"floors": self.reward.floors, "training": asdict(config)}
        pricings = [pricing_of(said, self.featurizer, front, prompts.zone) for prompts in self.sets]
        validation, chances = validate(policy, self.sets, pricings, config)
        self._seconds["prices"] = time.perf_counter() - started
        return Trained(
            policy=policy,
            featurizer=self.featurizer,
            front=front,
            validation=validation,
            chances=chances,
            steps=self._callback.steps,
            seconds=dict(self._seconds),
            start=self._losses,
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
        self._callback.steps_before += self._callback.num_timesteps
        if (progress := self._resumed) is not None:
            model.policy.load_state_dict(progress.weights)
            model.policy.optimizer.load_state_dict(dict(progress.optimiser))
            model.num_timesteps = progress.steps
            steps = max(0, steps - progress.steps)
            # Avoids repeating the random numbers of the interrupted part.
            model.set_random_seed(config.seed + progress.steps)
        started = time.perf_counter()
        with without_distribution_checks():
            model.learn(steps, callback=self._callback, reset_num_timesteps=self._resumed is None)
        self._resumed = None
        self._seconds["ppo"] = self._seconds.get("ppo", 0.0) + time.perf_counter() - started
        self._weights = copy.deepcopy(self._callback.weights)
        self._policy = self._callback.policy

    def _normalisation(self) -> tuple[Float32Array, Float32Array]:
        """Return mean and scale of each feature: the start policy's, or else the profile's."""
        if self._start_policy is not None:
            return self._start_policy.mean, self._start_policy.scale
        config = self._config
        mean, scale = self.prepared.normalisation(self._trace, config.price_range, config.seed)
        for group in config.without:
            scale[self.featurizer.groups[group]] = 0
        return mean, scale
