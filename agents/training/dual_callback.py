"""The dual side of PPO-Lagrangian as an SB3 callback: floors measured, multipliers moved."""

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
from agents.training.sb3 import Lanes, exported
from envs.outcomes.reward import Reward


class Tracker(Protocol):
    """Where training figures go."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record named figures at an environment step."""


# Of the running average of the weights: the share of what was before, after each rollout.
AVERAGED = 0.9


class DualCallback(BaseCallback):
    """After each rollout: measure the floors, move the multipliers, keep the best policy.

    Multipliers follow the policy as it is. What is kept is the average over its last
    rollouts (Polyak & Juditsky, 1992): a policy that learns from samples swings about its
    goal, and its multipliers with it; their average comes to rest.

    Args:
        patience: rollouts without a better policy after which training stops; 0 never.
        keep: called every `keep_every` rollouts with the model, to write a checkpoint.
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
        self._beside = ThreadPoolExecutor(1)
        self._measured: Future[tuple[Best, Validation]] | None = None
        self.best: Best | None = None
        self.resumed_average: Mapping[str, Any] | None = None
        self.steps_before = 0

    @property
    def average(self) -> Mapping[str, Any]:
        """State of the running average: what a checkpoint has to keep of it."""
        return self._average.state_dict()

    @property
    def steps(self) -> int:
        """Environment steps in all."""
        return self.steps_before + self.num_timesteps

    def _on_step(self) -> bool:
        # SB3 asks here; what was measured of the last rollout was taken in before this one.
        return not self._patience or self._since_best < self._patience

    def _init_callback(self) -> None:
        self._average = AveragedModel(self.model.policy, avg_fn=_running)
        if self.resumed_average is not None:
            self._average.load_state_dict(dict(self.resumed_average))
            self.resumed_average = None
        # The replay's patience is not the live server's.
        self._since_best = 0

    def _on_rollout_end(self) -> None:
        self._average.update_parameters(self.model.policy)
        policies = exported(self._average.module), exported(self.model.policy)  # type: ignore[arg-type]
        # Beside the update that follows: prices are wanted at the next rollout only.
        self._measured = self._beside.submit(self._measure, policies)

    def _on_rollout_start(self) -> None:
        self._settle()

    def _on_training_end(self) -> None:
        self._settle()

    def _measure(self, policies: tuple[Policy, Policy]) -> tuple[Best, Validation]:
        """The average as a candidate, and what the latest policy comes to."""
        candidate, latest = policies
        found = self._constraint.measure(candidate)
        prices = self._reward.multipliers | self._reward.latency_prices
        best = Best(candidate, found, prices, self._constraint.kept(found))
        return best, self._constraint.measure(latest)

    def _settle(self) -> None:
        """Take in the last rollout's measurement: keep what is best, move the prices."""
        if self._measured is None:
            return
        now, latest = self._measured.result()
        self._measured = None
        # Floors that are only watched choose nothing: the last policy is taken.
        if self._constraint.only_watches or now.better_than(self.best):
            self.best = now
            self._since_best = 0
        else:
            self._since_best += 1
        left = max(0.0, 1 - self.num_timesteps / self.locals["total_timesteps"])
        self._reward.set_prices(self._constraint.moved(latest, left))
        self._tracker.log(self._figures(now.found), self.steps)
        self._rollouts += 1
        if self._keep is not None and self._keep_every and not self._rollouts % self._keep_every:
            assert isinstance(self.model, PPO)
            self._keep(self.model)

    def _figures(self, found: Validation) -> dict[str, float]:
        env = self.training_env
        assert isinstance(env, Lanes)
        terms = env.last_info["terms"]
        return {
            "validation/grams_ratio": found.grams_ratio,
            "validation/worst_margin": found.worst_margin,
            **{f"validation/quality/{t}": r for t, r in found.ratio_by_task.items()},
            **{f"violation/{t}": v for t, v in self._constraint.violations(found).items()},
            **{f"validation/share/{i}": s for i, s in enumerate(found.share)},
            **{
                f"share/{task}/{directive}": share
                for task, shares in found.share_by_task.items()
                for directive, share in enumerate(shares)
            },
            **{f"multiplier/{t}": m for t, m in self._reward.multipliers.items()},
            **{f"multiplier/{t}": m for t, m in self._reward.latency_prices.items()},
            **{f"validation/overshoot/{t}": over for t, over in found.overshoot.items()},
            **{f"reward/{name}": float(values.mean()) for name, values in terms.items()},
        }


def _running(average: Tensor, latest: Tensor, count: Tensor | int) -> Tensor:
    """A running average that forgets its beginning: of the first rollouts all count alike."""
    before = min(AVERAGED, float(count) / (float(count) + 1))
    return before * average + (1 - before) * latest
