"""Dual updates of PPO-Lagrangian as an SB3 callback: measure constraints, move multipliers."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from agents.policy.network import Policy
from agents.training.lagrangian import Constraint, Validation
from agents.training.progress import Best
from agents.training.sb3 import Lanes, export_policy
from envs.outcomes.reward import Reward


class Tracker(Protocol):
    """Receiver of training metrics."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record named metrics at an environment step."""


# Decay of the running average of the weights: share of the previous average after a rollout.
AVERAGE_DECAY = 0.9


class DualCallback(BaseCallback):
    """After each rollout: measure the constraints, update the multipliers, keep the best policy.

    The multipliers follow the latest policy. The policy that is kept is the running average of
    the weights (Polyak & Juditsky, 1992): a policy trained on samples oscillates about its
    optimum, and its multipliers with it; the average converges.

    Args:
        constraint: measures the floors and latency limits.
        reward: the environment's reward, whose multipliers and prices are updated in place.
        tracker: receives the metrics of every rollout.
        patience: number of rollouts without a better policy after which training stops;
            0 never stops early.
        keep: called every `keep_every` rollouts with the model, to write a checkpoint; None to
            write none.
        keep_every: rollouts between checkpoints; 0 writes none.
    """

    def __init__(
        self,
        constraint: Constraint,
        reward: Reward,
        tracker: Tracker,
        *,
        patience: int = 0,
        keep: Callable[[PPO], None] | None = None,
        keep_every: int = 0,
    ) -> None:
        super().__init__()
        self._constraint = constraint
        self._reward = reward
        self._tracker = tracker
        self._patience = patience
        self._keep = keep
        self._keep_every = keep_every
        self._rollouts = self._since_best = 0
        self._executor = ThreadPoolExecutor(1)
        self._measurement: Future[tuple[Best, Validation]] | None = None
        self.best: Best | None = None
        self.resumed_average: Mapping[str, Any] | None = None
        self.steps_before = 0

    @property
    def average(self) -> Mapping[str, Any]:
        """State dict of the running average of the weights, for checkpoints."""
        return self._average.state_dict()

    @property
    def steps(self) -> int:
        """Environment steps in total, over replay and live training."""
        return self.steps_before + self.num_timesteps

    def _on_step(self) -> bool:
        # SB3 stops training if this returns False. The previous rollout's measurement has
        # already been applied when the current rollout takes its first step.
        return not self._patience or self._since_best < self._patience

    def _init_callback(self) -> None:
        self._average = AveragedModel(self.model.policy, avg_fn=_running)
        if self.resumed_average is not None:
            self._average.load_state_dict(dict(self.resumed_average))
            self.resumed_average = None
        # Replay and live training each count their own rollouts without improvement.
        self._since_best = 0

    def _on_rollout_end(self) -> None:
        self._average.update_parameters(self.model.policy)
        policies = export_policy(self._average.module), export_policy(self.model.policy)  # type: ignore[arg-type]
        # Runs in parallel with the PPO update: multipliers are needed only at the next rollout.
        self._measurement = self._executor.submit(self._measure, policies)

    def _on_rollout_start(self) -> None:
        self._settle()

    def _on_training_end(self) -> None:
        self._settle()

    def _measure(self, policies: tuple[Policy, Policy]) -> tuple[Best, Validation]:
        """Return the averaged policy as a candidate, and the latest policy's validation."""
        candidate, latest = policies
        validation = self._constraint.measure(candidate)
        prices = self._reward.multipliers | self._reward.latency_prices
        best = Best(candidate, validation, prices, self._constraint.kept(validation))
        return best, self._constraint.measure(latest)

    def _settle(self) -> None:
        """Apply the last rollout's measurement: keep the better policy, update multipliers."""
        if self._measurement is None:
            return
        candidate, latest = self._measurement.result()
        self._measurement = None
        # Floors that are not enforced do not select a policy: the last one is kept.
        if self._constraint.multipliers_fixed or candidate.better_than(self.best):
            self.best = candidate
            self._since_best = 0
        else:
            self._since_best += 1
        remaining = max(0.0, 1 - self.num_timesteps / self.locals["total_timesteps"])
        self._reward.set_multipliers(self._constraint.moved(latest, remaining))
        self._tracker.log(self._figures(candidate.validation), self.steps)
        self._rollouts += 1
        if self._keep is not None and self._keep_every and not self._rollouts % self._keep_every:
            assert isinstance(self.model, PPO)
            self._keep(self.model)

    def _figures(self, validation: Validation) -> dict[str, float]:
        env = self.training_env
        assert isinstance(env, Lanes)
        terms = env.last_info["terms"]
        return {
            "validation/grams_ratio": validation.grams_ratio,
            "validation/worst_margin": validation.worst_margin,
            **{f"validation/quality/{t}": r for t, r in validation.ratio_by_task.items()},
            **{f"violation/{t}": v for t, v in self._constraint.violations(validation).items()},
            **{f"validation/share/{i}": s for i, s in enumerate(validation.share)},
            **{
                f"share/{task}/{directive}": share
                for task, shares in validation.share_by_task.items()
                for directive, share in enumerate(shares)
            },
            **{f"multiplier/{t}": m for t, m in self._reward.multipliers.items()},
            **{f"multiplier/{t}": m for t, m in self._reward.latency_prices.items()},
            **{f"validation/overshoot/{t}": over for t, over in validation.overshoot.items()},
            **{f"reward/{name}": float(values.mean()) for name, values in terms.items()},
        }


def _running(average: Tensor, latest: Tensor, count: Tensor | int) -> Tensor:
    """Update the running average: an equal-weight mean at first, then exponential decay."""
    kept_share = min(AVERAGE_DECAY, float(count) / (float(count) + 1))
    return kept_share * average + (1 - kept_share) * latest
