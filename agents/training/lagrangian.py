"""The CMDP's constraints, measured on outcomes that the policy is not trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

from agents.policy.network import Policy
from agents.training.config import PpoConfig
from agents.training.controller import Controller
from agents.training.prompts import PromptSet
from envs.arrays import BoolArray
from envs.errors import ConfigError
from envs.outcomes.reward import Reward, untagged_name

# Initial multiplier of a latency limit: low, so that a limit that holds anyway costs little.
FIRST_PRICE = 0.05


@dataclass(frozen=True)
class Validation:
    """A policy's expected metrics on the profile's prompts, from their measured outcomes.

    Attributes:
        grams_ratio: footprint relative to always using L0.
        ratio_by_task: quality relative to L0. Keys: the task for requests that show their
            task's tag, `untagged_name(task)` for requests that do not. If floors depend on the
            grid's intensity, each intensity band has its own key
            (`envs.outcomes.floors.FloorSchedule.names`).
        bound_by_task: lower bounds on these ratios, at the configured confidence.
        share: mean probability of each directive.
        share_by_task: the same by constraint, with the keys of `ratio_by_task`.
        overshoot: mean excess over each latency limit; keys as in
            `envs.outcomes.reward.latency_excess`.
        overshoot_bound: upper bounds on these means, at the configured confidence; a limit is
            kept if its bound is at most 0.
        worst_margin: least of (bound - floor - safety) over floors and -overshoot_bound over
            limits; every constraint is kept if this is at least 0.
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
    """The requests of one floor: a task, with or without its tag, in one intensity band.

    Attributes:
        name: name of the constraint.
        task: task of the requests.
        tagged: whether the requests show their task's tag.
        among: mask of the prompts in the intensity band, shape (n,).
    """

    name: str
    task: str
    tagged: bool
    among: BoolArray


class Constraint:
    """Measures the quality floors and latency limits, and updates their multipliers.

    A floor must hold separately for clients who send the task's tag and for those who do not.

    Args:
        prompts: the profile's prompts with their outcomes.
        reward: supplies the floors and latency limits.
        config: supplies `confidence` (on few prompts, the best of many checkpoints may be best
            by luck), `safety`, and the settings of the dual update.

    Raises:
        ConfigError: a floor or a limit cannot be checked or cannot be kept by any policy.
    """

    def __init__(self, prompts: PromptSet, reward: Reward, config: PpoConfig) -> None:
        self._prompts = prompts
        self._config = config
        self._limits = reward.limits
        self._tasks = list(reward.floors)
        self._floors: dict[str, float] = {}
        self._groups: list[_ConstraintGroup] = []
        bands = reward.floor_schedule.band(prompts.intensity)
        for task, floor in reward.floors.items():
            for band, name in enumerate(reward.floor_schedule.names(task)):
                for tagged in (False, True):
                    group = _ConstraintGroup(
                        name if tagged else untagged_name(name),
                        task,
                        tagged,
                        bands[int(tagged)] == band,
                    )
                    if not prompts.total_quality_at_l0(task, group.among) > 0:
                        raise ConfigError(
                            f"task {name!r}: the floor cannot be checked, because none of its "
                            "prompts is answered correctly under L0; record more requests per task"
                        )
                    self._groups.append(group)
                    self._floors[group.name] = reward.floor_schedule.floor(floor, band)
        least = prompts.least_excess(reward.limits)
        for name, (mean, error) in least.items():
            if (excess := mean + config.confidence * error) > 0:
                raise ConfigError(
                    f"latency limit {name}: no choice of directives keeps it with a margin of "
                    f"{config.confidence:g} standard errors (the fastest choice exceeds it by "
                    f"{excess:.2f}); raise the limit, record more requests, or lower the confidence"
                )
        multipliers = dict.fromkeys(self._floors, config.initial_multiplier)
        prices = dict.fromkeys(least, FIRST_PRICE)
        self._controller = Controller(multipliers | prices, config.dual_rate, config.dual_damping)
        self._prices = prices

    def measure(self, policy: Policy) -> Validation:
        """Return the expected metrics of `policy`."""
        chances = self._prompts.chances(policy)
        ratios, bounds, shares = {}, {}, {}
        for group in self._groups:
            group_chances = chances[int(group.tagged)]
            ratio, error = self._prompts.ratio(
                self._floor_tasks(group.task), group_chances, group.among
            )
            ratios[group.name] = ratio
            bounds[group.name] = ratio - self._config.confidence * error
            rows = self._prompts.rows[group.task] & group.among
            shares[group.name] = group_chances[rows].mean(axis=0).tolist()
        overshoots = self._prompts.overshoots(self._limits, chances)
        overshoot_bounds = {
            name: mean + self._config.confidence * error
            for name, (mean, error) in overshoots.items()
        }
        margins = [
            bound - self._floors[name] - self._config.safety for name, bound in bounds.items()
        ]
        return Validation(
            self._prompts.grams_ratio(chances),
            ratios,
            bounds,
            tuple(float(x) for x in chances.mean(axis=(0, 1))),
            shares,
            {name: mean for name, (mean, _) in overshoots.items()},
            overshoot_bounds,
            min([*margins, *(-bound for bound in overshoot_bounds.values())]),
        )

    def _floor_tasks(self, task: str) -> tuple[str, ...]:
        """Return the tasks over which a task's floor is averaged."""
        return (task,) if self._config.floor_on == "task" else tuple(self._tasks)

    @property
    def multipliers_fixed(self) -> bool:
        """True if the multipliers are fixed, so that floors are measured but not enforced."""
        return self._config.fixed_multiplier is not None

    @property
    def multipliers(self) -> dict[str, float]:
        """Initial multipliers of the floors, with the keys of `Validation.ratio_by_task`."""
        fixed = self._config.fixed_multiplier
        start = self._config.initial_multiplier if fixed is None else fixed
        return dict.fromkeys(self._floors, start)

    @property
    def prices(self) -> dict[str, float]:
        """Initial multipliers of the latency limits."""
        return dict(self._prices)

    def moved(self, validation: Validation, remaining: float) -> dict[str, float]:
        """Update the multipliers of floors and limits after a measurement and return them.

        Args:
            validation: metrics of the latest policy.
            remaining: remaining share of the training, 1 to 0.
        """
        if self.multipliers_fixed:
            return self.multipliers | self.prices
        shortfalls = {
            name: floor + self._config.safety - validation.bound_by_task[name]
            for name, floor in self._floors.items()
        }
        return self._controller.moved(shortfalls | validation.overshoot_bound, remaining)

    @property
    def levels(self) -> dict[str, float]:
        """State of the multipliers' controller, for checkpoints."""
        return dict(self._controller.levels)

    def restore(self, levels: Mapping[str, float]) -> None:
        """Continue from a checkpoint's `levels`."""
        self._controller.levels.update(levels)

    def violations(self, validation: Validation) -> dict[str, float]:
        """Return the shortfall of each floor's and limit's confidence bound; 0 if it is kept."""
        missed = {
            t: max(0.0, floor - validation.bound_by_task[t]) for t, floor in self._floors.items()
        }
        return missed | {
            name: max(0.0, bound) for name, bound in validation.overshoot_bound.items()
        }

    def missed(self, validation: Validation) -> dict[str, float]:
        """Return the shortfalls, with `safety`, of the constraints that are not kept, worst first.

        Keys as in `violations`; an empty dictionary if all are kept.
        """
        shortfalls = {
            name: floor + self._config.safety - validation.bound_by_task[name]
            for name, floor in self._floors.items()
        } | validation.overshoot_bound
        missed = {name: size for name, size in shortfalls.items() if size > 0}
        return dict(sorted(missed.items(), key=lambda item: -item[1]))

    def kept(self, validation: Validation) -> bool:
        """Return whether every floor (plus safety) and every limit holds at its confidence."""
        return validation.worst_margin >= 0
