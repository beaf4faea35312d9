"""Hyperparameters of the PPO training."""

from dataclasses import dataclass

from envs.errors import ConfigError
from envs.requests.features import FORECAST, GROUPS, SPARED

# Where a floor binds: in each task, or on all requests together as in SPROUT.
FLOOR_SCOPES = ("task", "all")


@dataclass(frozen=True)
class PpoConfig:
    """Hyperparameters; each says what it does.

    Attributes:
        replay_steps: environment steps on the replay.
        live_steps: environment steps on the live server afterwards; 0 leaves it out.
        lanes, live_lanes: requests a step, replayed or in flight together.
        n_steps, live_n_steps: steps a lane between updates; a dual step follows each. Where
            gamma is 0 only lanes x n_steps counts, and many lanes are quickest; with a larger
            gamma two steps are too short.
        batch, epochs: PPO's minibatch, and its passes over each rollout.
        learning_rate, live_learning_rate: Adam's at the start; falls to 0 in a line.
        entropy: pulls towards trying every directive.
        weight_decay: AdamW's; pulls weights to 0, against memorising prompts.
        hidden: width of the two tanh layers.
        dual_rate, dual_damping: lasting and passing change of a multiplier's logarithm per
            unit of shortfall and dual step; the passing one falls to a fifth.
        initial_multiplier: of every task at the start.
        fixed_multiplier: if given, of every task for good: floors are then only watched.
        confidence, safety: standard errors, and a constant, by which a task's ratio must
            clear its floor; limits on latency are cleared by standard errors too.
        floor_on: "task", or "all" for one floor on the mean over all requests.
        floor_slack: how far floors yield from the cleanest to the dirtiest hour, as SPROUT's
            xi (`envs.outcomes.floors`); 0 keeps them constant.
        without: groups of features that the policy must not see; one of
            `envs.requests.features.GROUPS`, `SPARED` or `FORECAST`. The last by default: a
            request's best directive does not depend on the hours to come, and live there may be
            no forecast.
        patience: rollouts without a better policy after which training stops; 0 never.
        gamma: 0: a request's directive does not change the next request.
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
            raise ConfigError(f"without: no features {unknown[0]!r}; one of {', '.join(groups)}")
        if self.floor_on not in FLOOR_SCOPES:
            raise ConfigError(f"floor_on {self.floor_on!r}: one of {', '.join(FLOOR_SCOPES)}")
