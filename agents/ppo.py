"""PPO-Lagrangian on stable-baselines3: footprint against per-task quality floors."""

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from agents.duals import DualCallback, Tracker
from agents.expected import expected_quality
from agents.lagrangian import Constraint, Prompts, Validation
from agents.policy import Policy
from agents.sb3 import Lanes, Normaliser, normalisation
from agents.text import fit_text, fold_of
from envs.carbon import IntensityTrace
from envs.clock import SteppedClock
from envs.errors import ConfigError
from envs.features import Featurizer
from envs.llama2 import Llama2VectorEnv
from envs.profile import Profile
from envs.replay import ReplayBackend
from envs.reward import reward_from_profile
from envs.world import World, observe

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
        dual_rate, dual_damping: lasting and passing change of a multiplier's logarithm per
            unit of shortfall and dual step.
        confidence, safety: standard errors, and a constant, by which a task's validation
            ratio must clear its floor.
        gamma: 0: a request's directive does not change the next request.
    """

    replay_steps: int = 600_000
    live_steps: int = 512
    lanes: int = 512
    live_lanes: int = 32
    n_steps: int = 8
    batch: int = 1024
    epochs: int = 4
    live_n_steps: int = 4
    learning_rate: float = 3e-3
    live_learning_rate: float = 1e-4
    entropy: float = 0.003
    weight_decay: float = 0.1
    hidden: int = 32
    dual_rate: float = 1.5
    dual_damping: float = 20.0
    initial_multiplier: float = 2.0
    confidence: float = 1.0
    safety: float = 0.0
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
        seconds: that PPO took, its checks of the floors included.
    """

    policy: Policy
    featurizer: Featurizer
    validation: Validation
    multipliers: dict[str, float]
    steps: int
    floors_kept: bool
    seconds: float


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
        known = with_known_quality(profile, quality)
        text = fit_text(known, quality)
        self.featurizer = Featurizer(known.tasks, text.whole)
        # As new prompts will be seen, and rewarded by what others foretell of them: nothing
        # of a prompt's own verdict reaches the policy, so that it can judge it.
        self._parts = np.stack(
            [text.parts(self.featurizer, known.requests, tags) for tags in (False, True)]
        )
        scores = known.quality(quality)
        folds = np.array([fold_of(request) for request in known.requests])
        tasks = np.array([request.task for request in known.requests])
        expected = expected_quality(self._parts[1], scores, tasks, folds, config.seed)
        self._train = known.with_quality(quality, expected)
        self.reward = reward_from_profile(
            known, float(trace.g_per_kwh.mean()), self._floors, quality
        )
        self.reward.multipliers = dict.fromkeys(self.reward.floors, config.initial_multiplier)
        constraint = Constraint(
            Prompts(known, self._parts, self.featurizer, trace, quality, config.seed),
            self.reward.floors,
            initial=config.initial_multiplier,
            rate=config.dual_rate,
            damping=config.dual_damping,
            confidence=config.confidence,
            safety=config.safety,
        )
        self._duals = DualCallback(constraint, self.reward.multipliers, tracker)
        self._weights: Mapping[str, Any] | None = None
        self._seconds = 0.0

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
            parts=self._parts,
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
        started = time.perf_counter()
        model.learn(steps, callback=self._duals)
        self._seconds += time.perf_counter() - started
        self._weights = copy.deepcopy(model.policy.state_dict())

    def _policy_arguments(self) -> dict[str, Any]:
        config = self._config
        # Without some tags they all vary, also where the workload has one task only.
        parts = np.concatenate(self._parts)
        count = len(parts)
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
