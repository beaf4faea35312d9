"""The constrained problem of an environment: observation, reward, and the qualities to keep."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.arrays import Float32Array, Float64Array
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.multipliers import default_multipliers
from envs.outcomes.profile import Profile, with_known_quality
from envs.outcomes.reward import Reward, reward_from_profile
from envs.problem.constraints import Constraints
from envs.requests.directive import Catalogue
from envs.requests.features import Featurizer
from envs.requests.mix import Mix
from envs.requests.structure import OWN_LENGTH
from envs.world import parts_by_tag

# The prompts of a profile that an environment replays.
SPLITS = ("all", "train", "held_out")
# Reads what a bundle was trained on. A name, because this package imports nothing of `agents`.
LIKE = "agents.training.like"


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
        hidden: indices of the features that observations show as 0.
    """

    featurizer: Featurizer
    reward: Reward
    replayed: Profile | None = None
    parts: Float32Array | None = None
    tag_share: float = 1.0
    catalogue: Catalogue | None = None
    hidden: tuple[int, ...] = ()


def with_prices(reward: Reward, prices: Mapping[str, float]) -> Reward:
    """Return the reward with some multipliers and latency prices replaced."""
    priced = replace(
        reward,
        multipliers=dict(reward.multipliers),
        latency_prices=dict(reward.latency_prices),
    )
    priced.set_multipliers(prices)
    return priced


def profile_reward(
    profile: Profile,
    trace: IntensityTrace,
    constraints: Constraints,
    mix: Mix | None = None,
    parts: Float32Array | None = None,
) -> Reward:
    """Return the reward with a profile's references and the given or default multipliers.

    Args:
        profile: outcomes under every directive, of tasks with known quality.
        trace: carbon intensity of the environment's hours.
        constraints: what is kept.
        mix: shares of tasks by hour; None if every request is equally likely at every hour.
        parts: features of the profile's requests; None if every request can be steered.

    Raises:
        ConfigError: `floors` or `multipliers` names what is not there, or a floor cannot be
            checked.
    """
    quality = constraints.quality or "correct"
    floors = constraints.floors_of(profile.tasks)
    reward = reward_from_profile(profile, float(trace.g_per_kwh.mean()), floors, quality)
    for task, floor in reward.floors.items():
        if floor > 0 and reward.quality_l0[task] <= 0:
            raise ConfigError(
                f"task {task!r}: the floor cannot be checked, because no answer has any {quality} "
                "quality under L0; record more requests, or give the task a floor of 0"
            )
    steerable = np.ones(len(profile.requests), dtype=np.bool_)
    if parts is not None:
        steerable = parts[0][:, OWN_LENGTH] < 0.5
    intensity = _mean_intensity(profile.tasks, trace, mix)
    defaults = default_multipliers(profile, reward, intensity, steerable)
    return with_prices(reward, defaults | constraints.prices_of(reward))


def _mean_intensity(
    tasks: Sequence[str], trace: IntensityTrace, mix: Mix | None
) -> dict[str, float]:
    """Return the mean carbon intensity at the hours of each task's requests, gCO2e/kWh."""
    shares: Float64Array = np.ones((len(trace.g_per_kwh), len(tasks)))
    if mix is not None:
        steps = np.arange(len(trace.g_per_kwh), dtype=np.float64)
        times: Float64Array = trace.start + trace.step_seconds * steps
        shares = mix.aligned(tasks).at(trace.hour(times))
    totals = shares.sum(axis=0)
    means = (shares * trace.g_per_kwh[:, None]).sum(axis=0) / np.where(totals > 0, totals, 1)
    return dict(zip(tasks, means.tolist(), strict=True))


def replay_problem(
    profile: Profile,
    trace: IntensityTrace,
    constraints: Constraints,
    split: str = "all",
    hold_out: float = 0.0,
    mix: Mix | None = None,
) -> Problem:
    """Return the problem of replaying a profile's tasks with known quality.

    Args:
        profile: the recorded outcomes.
        trace: carbon intensity of the environment's hours.
        constraints: what is kept; without `like`.
        split: one of `SPLITS`. "train" and "held_out" are the prompts that `sprout train
            --hold-out` trains on and leaves out. The references and the default multipliers are
            those of "train" in both, so that rewards can be compared.
        hold_out: the share that is left out, above 0 and below 1.
        mix: shares of tasks by hour; None if every request is equally likely at every hour.

    Raises:
        ConfigError: the arguments contradict each other, or leave no request, or no task of the
            profile has the quality.
    """
    if (split == "all") == bool(hold_out):
        raise ConfigError(
            f"split {split!r} with hold_out {hold_out}: give split 'train' or 'held_out', and with "
            "hold_out the share of the prompts that training leaves out"
        )
    profile = with_known_quality(profile, constraints.quality or "correct")
    train, held_out = profile.split(hold_out, "hold-out")
    replayed = held_out if split == "held_out" else train
    if not train.requests or not replayed.requests:
        raise ConfigError(f"split {split!r} with hold_out {hold_out} leaves no request to replay")
    featurizer = Featurizer(profile.tasks)
    parts = parts_by_tag(featurizer, train.requests)
    reward = profile_reward(train, trace, constraints, mix, parts)
    return Problem(featurizer, reward, replayed, parts if replayed is train else None)


def replay_problem_like(
    profile: Profile | Path, trace: IntensityTrace, constraints: Constraints, split: str
) -> Problem:
    """Return the problem that the bundle `constraints.like` was trained on.

    Args:
        profile: the profile of its training, or the path.
        trace: the carbon intensity of its training.
        split: "train" for its training prompts, or "held_out" for all others.

    Raises:
        ConfigError: the bundle does not say what its problem is, or was trained on other inputs.
    """
    assert constraints.like is not None
    problem: Problem = _reader().replay_like(Path(constraints.like), profile, trace, split)
    prices = constraints.prices_of(problem.reward)
    return replace(problem, reward=with_prices(problem.reward, prices))


def live_problem_like(trace: IntensityTrace, constraints: Constraints) -> Problem:
    """Return the problem of the bundle `constraints.like` on a live server.

    Raises:
        ConfigError: the bundle does not say what its problem is.
    """
    assert constraints.like is not None
    problem: Problem = _reader().live_like(Path(constraints.like), trace)
    prices = constraints.prices_of(problem.reward)
    return replace(problem, reward=with_prices(problem.reward, prices))


def _reader() -> Any:
    try:
        return importlib.import_module(LIKE)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"like: package {error.name!r} is not installed; pip install 'sprout-rl[train]'"
        ) from error
