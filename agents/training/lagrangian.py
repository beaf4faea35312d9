"""Multipliers of the constraints, driven by outcomes that the policy does not train on."""

from collections.abc import Mapping
from dataclasses import dataclass

from agents.policy.network import Policy
from agents.training.config import PpoConfig
from agents.training.controller import Controller
from agents.training.prompts import PromptSet
from envs.arrays import BoolArray
from envs.errors import ConfigError
from envs.outcomes.reward import Reward, untagged

# Price of a latency limit at the start: one that is kept anyway costs next to nothing.
FIRST_PRICE = 0.05


@dataclass(frozen=True)
class Validation:
    """A policy's expected figures on the profile's prompts, by their own outcomes.

    Attributes:
        grams_ratio: footprint relative to always L0.
        ratio_by_task: quality relative to L0; of each task where its tag is shown, and
            under `untagged(task)` where it is not. Where floors yield to the grid, each band
            of intensities has a name of its own (`envs.outcomes.floors.FloorSchedule.names`).
        bound_by_task: what that ratio is at least, with the confidence asked for.
        share: mean probability of each directive.
        share_by_task: the same by task, tags shown or not as in `ratio_by_task`.
        overshoot: of each latency limit, by the names of `envs.outcomes.reward.overshoots`.
        overshoot_bound: what that is at most, with the confidence asked for; a limit is kept
            where this is at most 0.
        worst_margin: least of (bound - floor - safety) over tasks, and of -overshoot_bound;
            what is asked for is kept where it is at least 0.
    """

    grams_ratio: float
    ratio_by_task: dict[str, float]
    bound_by_task: dict[str, float]
    share: tuple[float, ...]
    share_by_task: dict[str, list[float]]
    overshoot: dict[str, float]
    overshoot_bound: dict[str, float]
    worst_margin: float


@dataclass(frozen=True)
class _ConstraintGroup:
    """One floor's requests: a task's, with its tag shown or not, in one band of intensities."""

    name: str
    task: str
    tagged: bool
    among: BoolArray


class Constraint:
    """Measures floors and limits, and moves the multipliers after them.

    A floor has to hold for clients who send their task's tag and for those who do not, each
    by itself.

    Args:
        prompts: with their outcomes.
        reward: whose floors and latency limits bind.
        config: for its `confidence`, since on few prompts the best of many checkpoints is a
            lucky one, its `safety`, and how the multipliers move.

    Raises:
        ConfigError: a floor or a limit that cannot be checked, or that nothing could keep.
    """

    def __init__(self, prompts: PromptSet, reward: Reward, config: PpoConfig) -> None:
        self._prompts = prompts
        self._config = config
        self._limits = reward.limits
        self._tasks = list(reward.floors)
        self._floors: dict[str, float] = {}
        self._cells: list[_ConstraintGroup] = []
        bands = reward.floor_schedule.band(prompts.intensity)
        for task, floor in reward.floors.items():
            for band, name in enumerate(reward.floor_schedule.names(task)):
                for tagged in (False, True):
                    cell = _ConstraintGroup(
                        name if tagged else untagged(name), task, tagged, bands[int(tagged)] == band
                    )
                    if not prompts.right_at_l0(task, cell.among) > 0:
                        raise ConfigError(
                            f"task {name!r}: its floor cannot be checked, since no prompt of it "
                            "is answered right at L0; record more requests a task"
                        )
                    self._cells.append(cell)
                    self._floors[cell.name] = reward.floor_schedule.floor(floor, band)
        least = prompts.least_overshoots(reward.limits)
        for name, (mean, error) in least.items():
            if (missed := mean + config.confidence * error) > 0:
                raise ConfigError(
                    f"latency limit {name}: no choice of directives keeps it with "
                    f"{config.confidence:g} standard errors to spare (the shortest misses it by "
                    f"{missed:.2f}); raise it, record more requests, or ask for less confidence"
                )
        first = dict.fromkeys(self._floors, config.initial_multiplier)
        prices = dict.fromkeys(least, FIRST_PRICE)
        self._controller = Controller(first | prices, config.dual_rate, config.dual_damping)
        self._prices = prices

    def measure(self, policy: Policy) -> Validation:
        """Expected figures of `policy`."""
        chance = self._prompts.chances(policy)
        ratios, bounds, shares = {}, {}, {}
        for cell in self._cells:
            chosen = chance[int(cell.tagged)]
            ratio, error = self._prompts.ratio(self._judged_on(cell.task), chosen, cell.among)
            ratios[cell.name] = ratio
            bounds[cell.name] = ratio - self._config.confidence * error
            mine = self._prompts.rows[cell.task] & cell.among
            shares[cell.name] = chosen[mine].mean(axis=0).tolist()
        over = self._prompts.overshoots(self._limits, chance)
        at_most = {
            name: mean + self._config.confidence * error for name, (mean, error) in over.items()
        }
        margins = [
            bound - self._floors[task] - self._config.safety for task, bound in bounds.items()
        ]
        return Validation(
            self._prompts.grams_ratio(chance),
            ratios,
            bounds,
            tuple(float(x) for x in chance.mean(axis=(0, 1))),
            shares,
            {name: mean for name, (mean, _) in over.items()},
            at_most,
            min([*margins, *(-most for most in at_most.values())]),
        )

    def _judged_on(self, task: str) -> tuple[str, ...]:
        return (task,) if self._config.floor_on == "task" else tuple(self._tasks)

    @property
    def only_watches(self) -> bool:
        """Whether the multipliers are fixed, whatever is measured."""
        return self._config.fixed_multiplier is not None

    @property
    def multipliers(self) -> dict[str, float]:
        """Of floors by task and by `untagged(task)`, at the start."""
        fixed = self._config.fixed_multiplier
        start = self._config.initial_multiplier if fixed is None else fixed
        return dict.fromkeys(self._floors, start)

    @property
    def prices(self) -> dict[str, float]:
        """Of latency limits, at the start."""
        return dict(self._prices)

    def moved(self, found: Validation, left: float) -> dict[str, float]:
        """Multipliers and prices after a measurement, with a share of the training left."""
        if self.only_watches:
            return self.multipliers | self.prices
        missing = {
            task: floor + self._config.safety - found.bound_by_task[task]
            for task, floor in self._floors.items()
        }
        return self._controller.moved(missing | found.overshoot_bound, left)

    @property
    def levels(self) -> dict[str, float]:
        """What a checkpoint has to keep of the multipliers' controller."""
        return dict(self._controller.levels)

    def restore(self, levels: Mapping[str, float]) -> None:
        """Go on from a checkpoint's levels."""
        self._controller.levels.update(levels)

    def violations(self, found: Validation) -> dict[str, float]:
        """By how much each floor and limit is missed with its confidence; 0 where it is kept."""
        missed = {t: max(0.0, floor - found.bound_by_task[t]) for t, floor in self._floors.items()}
        return missed | {name: max(0.0, most) for name, most in found.overshoot_bound.items()}

    def kept(self, found: Validation) -> bool:
        """Whether every floor holds with its confidence and safety, and every limit."""
        return found.worst_margin >= 0
