"""Hyperparameters of the PPO training."""

from dataclasses import dataclass

from envs.errors import ConfigError
from envs.requests.features import FORECAST, GROUPS, SPARED

# Scope of a floor: each task by itself, or all requests together as in SPROUT.
FLOOR_SCOPES = ("task", "all")
# Share of training requests whose observation shows the task's tag.
TAG_SHARE = 0.5


@dataclass(frozen=True)
class PpoConfig:
    """Hyperparameters of the PPO-Lagrangian training.

    Attributes:
        replay_steps: environment steps on the replayed profile.
        live_steps: environment steps on the live server afterwards; 0 skips the live part.
        lanes, live_lanes: parallel lanes, that is requests per vector step, on the replay and
            on the live server (where they are in flight together).
        n_steps, live_n_steps: steps per lane between PPO updates; each update is followed by a
            dual update. With gamma 0 only lanes x n_steps matters, and many lanes are fastest;
            with a larger gamma, two steps are too few.
        batch, epochs: PPO's minibatch size, and its passes over each rollout.
        learning_rate, live_learning_rate: initial learning rate of AdamW; decays linearly to 0.
        entropy: coefficient of the entropy bonus, which keeps the policy exploring directives.
        weight_decay: AdamW's weight decay, against memorising prompts.
        hidden: width of each of the two tanh layers.
        dual_rate, dual_damping: integral and proportional gain of the dual update: the lasting
            and the temporary change of a multiplier's logarithm per unit of shortfall. The
            damping falls linearly to a fifth.
        initial_multiplier: Lagrange multiplier of every floor at the start.
        fixed_multiplier: if given, the constant multiplier of every floor; the floors are then
            measured but not enforced. None for dual updates.
        confidence: number of standard errors by which a task's quality ratio must exceed its
            floor, and by which a latency limit must be kept.
        safety: constant margin added to every floor.
        floor_on: "task" for one floor per task; "all" for one floor on the mean over all
            requests.
        floor_slack: fraction by which floors are lowered in the dirtiest hour relative to the
            cleanest, as SPROUT's xi (`envs.outcomes.floors`); 0 keeps them constant.
        without: feature groups hidden from the policy, from
            `envs.requests.features.GROUPS`, `SPARED` and `FORECAST`. The forecast is hidden by
            default: the best directive of a request does not depend on future hours, and a live
            server may have no forecast.
        patience: number of rollouts without a better policy after which training stops;
            0 never stops early.
        gamma: discount factor; 0 because a directive does not influence later requests.
        seed: seed of PPO, of the sampled hours and of the cross-fitted trees.
    """

    replay_steps: int = 1_000_000
    live_steps: int = 512
    lanes: int = 2048
    live_lanes: int = 32
    n_steps: int = 2
    live_n_steps: int = 4
    batch: int = 1024
    epochs: int = 4
    learning_rate: float = 3e-3
    live_learning_rate: float = 1e-4
    entropy: float = 0.003
    weight_decay: float = 0.1
    hidden: int = 32
    dual_rate: float = 1.5
    dual_damping: float = 20.0
    initial_multiplier: float = 2.0
    fixed_multiplier: float | None = None
    confidence: float = 1.0
    safety: float = 0.0
    floor_on: str = "task"
    floor_slack: float = 0.0
    without: tuple[str, ...] = (FORECAST,)
    patience: int = 0
    gamma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        groups = (*GROUPS, SPARED, FORECAST)
        unknown = [group for group in self.without if group not in groups]
        if unknown:
            raise ConfigError(
                f"without: unknown feature group {unknown[0]!r}; give one of {', '.join(groups)}"
            )
        if self.floor_on not in FLOOR_SCOPES:
            raise ConfigError(
                f"floor_on {self.floor_on!r} is unknown; give one of {', '.join(FLOOR_SCOPES)}"
            )
