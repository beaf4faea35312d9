"""Hyperparameters of the training: the supervised start, and PPO."""

from dataclasses import dataclass

from envs.errors import ConfigError
from envs.outcomes.prices import QUALITY_RANGE
from envs.requests.features import FORECAST, GROUPS, PRICE, SPARED

# Scope of a floor: each task by itself, or all requests together as in SPROUT.
FLOOR_SCOPES = ("task", "all")
# What the supervised start fits: the best directive, or the expected reward.
START_LOSSES = ("choice", "reward")
# Groups of features that can be hidden from the policy. Without prices it would know no floor.
HIDEABLE = (*(group for group in GROUPS if group != PRICE), SPARED, FORECAST)
# Share of training requests whose observation shows the task's tag.
TAG_SHARE = 0.5


@dataclass(frozen=True)
class PpoConfig:
    """Hyperparameters of a training whose policy observes the price of quality.

    Attributes:
        start_batches: batches of the supervised start; 0 begins with random weights.
        start_rate: highest learning rate of the supervised start (one cycle, AdamW).
        start_temperature: how far the best directives are softened, in units of the reward, whose
            weights of cost and quality sum to 1.
        start_loss: "choice" to imitate the softened best directives, "reward" to maximise the
            expected reward.
        replay_steps: environment steps of PPO on the replayed profile; 0 leaves it at the
            supervised start.
        live_steps: environment steps on the live server afterwards; 0 skips the live part.
        lanes, live_lanes: parallel lanes, that is requests per vector step, on the replay and
            on the live server (where they are in flight together).
        n_steps, live_n_steps: steps per lane between PPO updates. With gamma 0 only
            lanes x n_steps matters, and many lanes are fastest; with a larger gamma, two steps are
            too few.
        batch, epochs: PPO's minibatch size, and its passes over each rollout.
        learning_rate, live_learning_rate: initial learning rate of AdamW; decays linearly to 0.
        entropy: coefficient of the entropy bonus, which keeps the policy exploring directives.
        weight_decay: AdamW's weight decay, against memorising prompts.
        sharpness: factor on the trained policy's log-odds. Training needs chance to explore; the
            policy that is kept should choose the better directive even if it is only a bit better.
        hidden: width of each of the two tanh layers.
        price_range: lowest and highest price of quality that training draws and that floors are
            looked up in (`envs.outcomes.prices`).
        fixed_price: if given, the policy is used at this price, and the floors are measured but
            not enforced. None for the prices that the floors need.
        confidence: number of standard errors by which a task's quality ratio must exceed its
            floor, and by which a latency limit must be kept.
        safety: constant margin added to every floor.
        floor_on: "task" for one floor per task; "all" for one floor on the mean over all
            requests.
        floor_slack: fraction by which floors are lowered in the dirtiest hour relative to the
            cleanest, as SPROUT's xi (`envs.outcomes.floors`); 0 keeps them constant.
        pool_zones: whether floors hold for the mean over all zones of the training together, so
            that one zone may make up for another; by default they hold in each zone.
        without: feature groups hidden from the policy, from `HIDEABLE`. The forecast is hidden by
            default: the best directive of a request does not depend on future hours, and a live
            server may have no forecast.
        gamma: discount factor; 0 because a directive does not influence later requests.
        seed: seed of the start, of PPO, of the sampled hours and of the cross-fitted trees.
    """

    start_batches: int = 1000
    start_rate: float = 3e-3
    start_temperature: float = 0.003
    start_loss: str = "choice"
    replay_steps: int = 400_000
    live_steps: int = 512
    lanes: int = 2048
    live_lanes: int = 32
    n_steps: int = 2
    live_n_steps: int = 4
    batch: int = 1024
    epochs: int = 4
    learning_rate: float = 1e-3
    live_learning_rate: float = 1e-4
    entropy: float = 0.001
    weight_decay: float = 0.1
    sharpness: float = 5.0
    hidden: int = 64
    price_range: tuple[float, float] = QUALITY_RANGE
    fixed_price: float | None = None
    confidence: float = 1.0
    safety: float = 0.0
    floor_on: str = "task"
    floor_slack: float = 0.0
    pool_zones: bool = False
    without: tuple[str, ...] = (FORECAST,)
    gamma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [group for group in self.without if group not in HIDEABLE]
        if unknown:
            raise ConfigError(
                f"without: unknown feature group {unknown[0]!r}; give one of {', '.join(HIDEABLE)}"
            )
        for name, value, known in (
            ("floor_on", self.floor_on, FLOOR_SCOPES),
            ("start_loss", self.start_loss, START_LOSSES),
        ):
            if value not in known:
                raise ConfigError(f"{name} {value!r} is unknown; give one of {', '.join(known)}")
        if not 0 < self.sharpness < float("inf"):
            raise ConfigError(f"sharpness {self.sharpness}: give a number above 0")
        low, high = self.price_range
        if not 0 < low < high:
            raise ConfigError(
                f"price_range {self.price_range}: give two prices above 0, the lower one first"
            )
        if self.fixed_price is not None and not low <= self.fixed_price <= high:
            raise ConfigError(
                f"fixed_price {self.fixed_price}: give a price within {low:g} to {high:g}"
            )
