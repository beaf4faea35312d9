"""The steps after each rollout of PPO: the running average, metrics, and checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from agents.policy.network import Policy
from agents.training.sb3 import Lanes, export_policy


class Tracker(Protocol):
    """Receiver of training metrics."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record named metrics at an environment step."""


# Decay of the running average of the weights: share of the previous average after a rollout.
AVERAGE_DECAY = 0.95
# Rollouts between measurements of the policy on the prompts' own verdicts.
PROBE_ROLLOUTS = 20


class AverageCallback(BaseCallback):
    """After each rollout: average the weights, report the rewards, write checkpoints.

    The policy that is kept is the running average of the weights (Polyak & Juditsky, 1992): a
    policy trained on samples oscillates about its optimum; the average converges.

    Args:
        tracker: receives the metrics of every rollout.
        probe: measures the averaged policy every `PROBE_ROLLOUTS` rollouts, for the tracker.
        keep: called every `keep_every` rollouts with the model, to write a checkpoint; None to
            write none.
        keep_every: rollouts between checkpoints; 0 writes none.
    """

    def __init__(
        self,
        tracker: Tracker,
        probe: Callable[[Policy], Mapping[str, float]],
        *,
        keep: Callable[[PPO], None] | None = None,
        keep_every: int = 0,
    ) -> None:
        super().__init__()
        self._tracker = tracker
        self._probe = probe
        self._keep = keep
        self._keep_every = keep_every
        self._rollouts = 0
        self.resumed_average: Mapping[str, Any] | None = None
        self.steps_before = 0

    @property
    def average(self) -> Mapping[str, Any]:
        """State dict of the running average of the weights, for checkpoints."""
        return self._average.state_dict()

    @property
    def weights(self) -> Mapping[str, Any]:
        """The averaged weights of the policy and its value function."""
        return self._average.module.state_dict()

    @property
    def policy(self) -> Policy:
        """The policy with the averaged weights."""
        return export_policy(self._average.module)  # type: ignore[arg-type]

    @property
    def steps(self) -> int:
        """Environment steps in total, over replay and live training."""
        return self.steps_before + self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _init_callback(self) -> None:
        # Counts the policy that PPO starts from as the first of the average.
        self._average = AveragedModel(self.model.policy, avg_fn=_running)
        self._average.update_parameters(self.model.policy)
        if self.resumed_average is not None:
            self._average.load_state_dict(dict(self.resumed_average))
            self.resumed_average = None

    def _on_rollout_end(self) -> None:
        env = self.training_env
        assert isinstance(env, Lanes)
        terms = env.last_info["terms"]
        figures = {f"reward/{name}": float(values.mean()) for name, values in terms.items()}
        losses = self.model.logger.name_to_value
        figures |= {name: float(value) for name, value in losses.items() if "train/" in name}
        if not self._rollouts % PROBE_ROLLOUTS:
            figures |= self._probe(self.policy)
        self._tracker.log(figures, self.steps)

    def _on_rollout_start(self) -> None:
        if self._rollouts:
            self._after_update()
        self._rollouts += 1

    def _on_training_end(self) -> None:
        self._after_update()

    def _after_update(self) -> None:
        """Average the weights that the last rollout's update has changed; write a checkpoint."""
        self._average.update_parameters(self.model.policy)
        due = self._keep_every and not self._rollouts % self._keep_every
        if self._keep is not None and due:
            assert isinstance(self.model, PPO)
            self._keep(self.model)


def _running(average: Tensor, latest: Tensor, count: Tensor | int) -> Tensor:
    """Update the running average: an equal-weight mean at first, then exponential decay."""
    kept_share = min(AVERAGE_DECAY, float(count) / (float(count) + 1))
    return kept_share * average + (1 - kept_share) * latest
