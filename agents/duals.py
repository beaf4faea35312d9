"""The dual side of PPO-Lagrangian as an SB3 callback: floors measured, multipliers moved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from stable_baselines3.common.callbacks import BaseCallback

from agents.lagrangian import Constraint, Validation
from agents.policy import Policy
from agents.sb3 import Lanes, exported


class Tracker(Protocol):
    """Where training figures go."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record named figures at an environment step."""


@dataclass(frozen=True)
class Checkpoint:
    """A policy with its validation figures and the multipliers of its step."""

    policy: Policy
    found: Validation
    multipliers: dict[str, float]
    kept: bool

    def better_than(self, other: "Checkpoint | None") -> bool:
        """Floors kept come first, then less carbon; without them, the nearer to keeping them."""
        if other is None or self.kept != other.kept:
            return other is None or self.kept
        if self.kept:
            return self.found.grams_ratio < other.found.grams_ratio
        return self.found.worst_margin > other.found.worst_margin


class DualCallback(BaseCallback):
    """After each rollout: measure on validation prompts, move multipliers, keep the best."""

    def __init__(
        self, constraint: Constraint, multipliers: dict[str, float], tracker: Tracker
    ) -> None:
        super().__init__()
        self._constraint = constraint
        self._multipliers = multipliers
        self._tracker = tracker
        self.best: Checkpoint | None = None
        self.steps_before = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        policy = exported(self.model.policy)  # type: ignore[arg-type]
        found = self._constraint.measure(policy)
        checkpoint = Checkpoint(
            policy, found, dict(self._multipliers), self._constraint.kept(found)
        )
        # Floors that are only watched choose nothing: the last policy is taken.
        if self._constraint.only_watches or checkpoint.better_than(self.best):
            self.best = checkpoint
        self._multipliers.update(self._constraint.moved(found))
        self._tracker.log(self._figures(found), self.steps_before + self.num_timesteps)

    def _figures(self, found: Validation) -> dict[str, float]:
        env = self.training_env
        assert isinstance(env, Lanes)
        terms = env.last_info["terms"]
        return {
            "validation/grams_ratio": found.grams_ratio,
            "validation/worst_margin": found.worst_margin,
            **{f"validation/quality/{t}": r for t, r in found.ratio_by_task.items()},
            **{f"validation/share/{i}": s for i, s in enumerate(found.share)},
            **{f"multiplier/{t}": m for t, m in self._multipliers.items()},
            **{f"reward/{name}": float(values.mean()) for name, values in terms.items()},
        }
