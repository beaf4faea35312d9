"""The constrained problem of an environment: what is observed, rewarded and kept."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.arrays import Float32Array
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.multipliers import default_multipliers
from envs.outcomes.outcome import QUALITIES
from envs.outcomes.profile import Profile
from envs.outcomes.reward import Reward, reward_from_profile
from envs.requests.directive import Catalogue
from envs.requests.features import Featurizer

DEFAULT_FLOOR = 0.95
# The reward with its penalties for quality and latency, or the footprint's term alone.
REWARD_MODES = ("penalised", "footprint")
# The prompts of a profile that an environment replays.
SPLITS = ("all", "train", "held_out")
# Reads what a bundle was trained on. A name, because this package imports nothing of `agents`.
LIKE = "agents.training.like"
# What counts as a number in an argument.
NUMBERS = (int, float, np.number)


@dataclass(frozen=True)
class Problem:
    """Observation, reward and replayed outcomes of an environment.

    Attributes:
        featurizer: turns requests into observations.
        reward: the reward, with its floors and multipliers.
        replayed: the outcomes that a replay returns; None on a live server.
        parts: features of the replayed requests, as `envs.world.World` takes them; None to let
            it compute them.
        tag_share: share of requests whose observation shows their task.
        catalogue: the directives of a bundle's problem; None if there is no bundle.
    """

    featurizer: Featurizer
    reward: Reward
    replayed: Profile | None = None
    parts: Float32Array | None = None
    tag_share: float = 1.0
    catalogue: Catalogue | None = None


@dataclass(frozen=True)
class Constraints:
    """Arguments of an environment that say which quality is kept, and at what price.

    Attributes:
        quality: "correct" or "preference"; None for "correct", or for that of `like`.
        floor: least ratio of a task's quality to its quality under L0, for tasks that `floors`
            does not name; None for `DEFAULT_FLOOR`, or for the floors of `like`.
        floors: the same by task.
        multipliers: Lagrange multiplier of every floor, or by constraint; None for multipliers
            under which no task is better off breaking its floor, or for those of `like`.
        like: folder of a policy bundle whose problem this is: its features, floors, multipliers
            and references.

    Raises:
        ConfigError: a value is out of range, or contradicts `like`.
    """

    quality: str | None = None
    floor: float | None = None
    floors: Mapping[str, float] | None = None
    multipliers: float | Mapping[str, float] | None = None
    like: Path | str | None = None

    def __post_init__(self) -> None:
        if self.quality is not None and self.quality not in QUALITIES:
            raise ConfigError(f"quality {self.quality!r}: give one of {', '.join(QUALITIES)}")
        for name, floor in [*_named("floor", self.floor), *_named("floors", self.floors)]:
            if not (isinstance(floor, NUMBERS) and 0 <= floor <= 1):
                raise ConfigError(f"{name} {floor}: give a ratio of L0's quality, 0 to 1")
        for name, price in _named("multipliers", self.multipliers):
            if not (isinstance(price, NUMBERS) and 0 <= price < math.inf):
                raise ConfigError(f"{name} {price}: give a finite number, 0 or more")
        if self.like is not None:
            for name in ("quality", "floor", "floors"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name}: the bundle given with like fixes it; leave {name} out"
                    )

    def floors_of(self, tasks: Sequence[str]) -> dict[str, float]:
        """Return the floor of each task; raise ConfigError if `floors` names another."""
        floors = self.floors or {}
        if unknown := sorted(set(floors) - set(tasks)):
            raise ConfigError(f"floors: no task {unknown[0]!r}; the tasks are {', '.join(tasks)}")
        default = DEFAULT_FLOOR if self.floor is None else self.floor
        return {task: floors.get(task, default) for task in tasks}

    def priced(self, reward: Reward, defaults: Mapping[str, float]) -> Reward:
        """Return the reward with the given multipliers, or `defaults` where none are given.

        Raises:
            ConfigError: a multiplier's name is not that of a constraint.
        """
        if self.multipliers is None:
            multipliers = dict(defaults)
        elif isinstance(self.multipliers, Mapping):
            if unknown := sorted(set(self.multipliers) - set(defaults)):
                raise ConfigError(
                    f"multipliers: no constraint {unknown[0]!r}; there are {', '.join(defaults)}"
                )
            multipliers = {**defaults, **self.multipliers}
        else:
            multipliers = dict.fromkeys(defaults, self.multipliers)
        priced = replace(reward, multipliers={}, latency_prices=dict(reward.latency_prices))
        priced.set_multipliers(multipliers)
        return priced

    def of_profile(
        self, profile: Profile, trace: IntensityTrace
    ) -> tuple[Reward, dict[str, float]]:
        """Return the reward with a profile's references, and its default multipliers.

        Raises:
            ConfigError: no task has the quality.
        """
        quality = self.quality or "correct"
        floors = self.floors_of(profile.tasks)
        reward = reward_from_profile(profile, float(trace.g_per_kwh.mean()), floors, quality)
        if not reward.floors:
            other = next(kind for kind in QUALITIES if kind != quality)
            raise ConfigError(
                f"quality {quality!r}: the profile has none; record verdicts, or give {other!r}"
            )
        return reward, default_multipliers(profile, reward, trace)


def _named(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return an argument's numbers, each with the name that an error calls it by."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [(f"{name}[{key!r}]", number) for key, number in value.items()]
    return [(name, value)]


def replay_problem(
    profile: Profile,
    trace: IntensityTrace,
    constraints: Constraints,
    split: str | None = None,
    hold_out: float = 0.0,
) -> Problem:
    """Return the problem of replaying a profile.

    Args:
        profile: the recorded outcomes.
        trace: carbon intensity of the environment's hours.
        constraints: what is kept.
        split: one of `SPLITS`. "train" and "held_out" are the prompts that `sprout train
            --hold-out` trains on and leaves out; with `like`, those that the bundle was trained
            on and all others. None for "all", or with `like` for "train".
        hold_out: the share that is left out, above 0 and below 1; not with `like`.

    Raises:
        ConfigError: the arguments contradict each other, or leave no request.
    """
    if split is not None and split not in SPLITS:
        raise ConfigError(f"split {split!r}: give one of {', '.join(SPLITS)}")
    if not 0 <= hold_out < 1:
        raise ConfigError(f"hold_out {hold_out}: give a share of the prompts, 0 or more, below 1")
    if constraints.like is not None:
        if hold_out:
            raise ConfigError("hold_out: the bundle given with like fixes it; leave hold_out out")
        problem: Problem = _reader().replay_like(
            Path(constraints.like), profile, trace, split or "train"
        )
        return _priced_as_given(problem, constraints)
    split = split or "all"
    if (split == "all") == bool(hold_out):
        raise ConfigError(
            f"split {split!r} with hold_out {hold_out}: give split 'train' or 'held_out', and with "
            "hold_out the share of the prompts that training leaves out"
        )
    chosen = profile
    if split != "all":
        chosen = profile.split(hold_out, "hold-out")[split == "held_out"]
    if not chosen.requests:
        raise ConfigError(f"split {split!r} with hold_out {hold_out} leaves no request to replay")
    reward, defaults = constraints.of_profile(chosen, trace)
    return Problem(Featurizer(profile.tasks), constraints.priced(reward, defaults), chosen)


def live_problem_like(trace: IntensityTrace, constraints: Constraints) -> Problem:
    """Return the problem of the bundle `constraints.like` on a live server.

    Raises:
        ConfigError: the bundle does not say what its problem is.
    """
    assert constraints.like is not None
    problem: Problem = _reader().live_like(Path(constraints.like), trace)
    return _priced_as_given(problem, constraints)


def _priced_as_given(problem: Problem, constraints: Constraints) -> Problem:
    reward = problem.reward
    defaults = reward.multipliers | reward.latency_prices
    return replace(problem, reward=constraints.priced(reward, defaults))


def _reader() -> Any:
    try:
        return importlib.import_module(LIKE)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"like: package {error.name!r} is not installed; pip install 'sprout-rl[train]'"
        ) from error
