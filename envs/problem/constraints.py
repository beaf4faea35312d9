"""Floors and multipliers of an environment, from plain arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.errors import ConfigError
from envs.outcomes.floors import untagged_name
from envs.outcomes.outcome import QUALITIES
from envs.outcomes.reward import Reward
from envs.problem.checks import choice, number, path

DEFAULT_FLOOR = 0.95


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Arguments of an environment that say which quality is kept, and at what price.

    Attributes:
        quality: "correct" or "preference"; None for "correct", or for that of `like`.
        floor: least ratio of a task's quality to its quality under L0, for tasks that `floors`
            does not name; None for `DEFAULT_FLOOR`, or for the floors of `like`.
        floors: the same by task.
        multipliers: Lagrange multiplier of every floor, or by task or constraint; None for
            multipliers under which no task is better off breaking its floor, or for those of
            `like`.
        like: folder of a policy bundle whose problem this is: its features, floors, multipliers
            and references.

    Raises:
        ConfigError: a value is of a wrong kind, out of range, or contradicts `like`.
    """

    quality: str | None = None
    floor: float | None = None
    floors: Mapping[str, float] | None = None
    multipliers: float | Mapping[str, float] | None = None
    like: Path | str | None = None

    def __post_init__(self) -> None:
        if self.quality is not None:
            choice("quality", self.quality, QUALITIES)
        if self.floors is not None and not isinstance(self.floors, Mapping):
            raise ConfigError(f"floors {self.floors!r}: give a mapping of TASK: RATIO")
        for name, value in (("floor", self.floor), *_items("floors", self.floors)):
            if value is not None:
                number(name, value, "a ratio of L0's quality, 0 to 1", most=1)
        prices = self.multipliers
        single = [] if prices is None else [("multipliers", prices)]
        for name, value in _items("multipliers", prices) if isinstance(prices, Mapping) else single:
            number(name, value, "a finite number, 0 or more")
        if self.like is not None:
            path("like", self.like)
            for name in ("quality", "floor", "floors"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name}: the bundle given as `like` fixes it; leave {name} out"
                    )

    def floors_of(self, tasks: Sequence[str]) -> dict[str, float]:
        """Return the floor of each task; raise ConfigError if `floors` names another."""
        floors = self.floors or {}
        if unknown := [task for task in floors if task not in tasks]:
            raise ConfigError(f"floors: no task {unknown[0]!r}; the tasks are {', '.join(tasks)}")
        default = DEFAULT_FLOOR if self.floor is None else self.floor
        return {task: float(floors.get(task, default)) for task in tasks}

    def prices_of(self, reward: Reward) -> dict[str, float]:
        """Return the given multipliers by the names that the reward looks them up by.

        A number is for all floors. A task's name is for all constraints of its floor: with and
        without its tag, and in every band of intensities.

        Raises:
            ConfigError: a name is neither a task with a floor nor a constraint.
        """
        of_task = {
            task: [
                name
                for tagged in reward.floor_schedule.names(task)
                for name in (tagged, untagged_name(tagged))
            ]
            for task in reward.floors
        }
        single = {name: [name] for names in of_task.values() for name in names}
        limits = {name: [name] for name in reward.latency_prices}
        if self.multipliers is None:
            return {}
        if not isinstance(self.multipliers, Mapping):
            return dict.fromkeys(single, float(self.multipliers))
        prices: dict[str, float] = {}
        for given, price in self.multipliers.items():
            # The task last: its name alone is also that of a constraint.
            names = (single | limits | of_task).get(given)
            if names is None:
                raise ConfigError(
                    f"multipliers: no constraint {given!r}; there are "
                    f"{'; '.join(dict.fromkeys([*of_task, *limits, *single]))}"
                )
            prices |= dict.fromkeys(names, float(price))
        return prices


def _items(name: str, values: Mapping[Any, Any] | None) -> list[tuple[str, Any]]:
    """Return an argument's values, each with the name that an error calls it by."""
    return [(f"{name}[{key!r}]", value) for key, value in (values or {}).items()]
