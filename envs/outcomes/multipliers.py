"""Multipliers under which the reward's optimum keeps every floor."""

import numpy as np

from envs.arrays import Float64Array, Int64Array
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import IntensityTrace
from envs.outcomes.dual_price import least_price
from envs.outcomes.profile import Profile
from envs.outcomes.reward import Reward

# Floors above this are treated as this by `safe_multiplier`, which divides by 1 - floor.
HIGHEST_FLOOR = 0.99


def default_multipliers(
    profile: Profile, reward: Reward, trace: IntensityTrace
) -> dict[str, float]:
    """Return a multiplier for each floor under which no task is better off breaking its floor.

    A multiplier is the highest of three prices of quality: those at which the best policy just
    keeps the floor if it knows (1) the task and the hour, (2) also each request's costs under
    every directive, (3) also its qualities. A learned policy knows something in between.

    Args:
        profile: outcomes under every directive, from which the reward's references are.
        reward: supplies floors, references and quality; its multipliers are not used.
        trace: carbon intensity of the environment's hours.
    """
    scores = profile.quality(reward.quality)
    known = ~np.isnan(scores).any(axis=1)
    multipliers = {}
    for task, floor in reward.floors.items():
        rows = np.flatnonzero(profile.rows_of(task) & known)
        if not rows.size or not scores[rows, 0].any():
            continue
        own = scores[rows] / scores[rows, 0].mean()
        alike = np.tile(own.mean(axis=0), (len(rows), 1))
        costs = _footprints(profile, rows, reward, _spread(trace, len(rows)))
        by_hour = _footprints(profile, rows, reward, trace.g_per_kwh, alike=True)
        same = np.tile(own.mean(axis=0), (len(by_hour), 1))
        multipliers[task] = max(
            least_price(by_hour, same, floor * len(by_hour)),
            least_price(costs, alike, floor * len(rows)),
            least_price(costs, own, floor * len(rows)),
        )
    return multipliers


def safe_multiplier(floor: float, highest_footprint: float) -> float:
    """Return a multiplier under which L0 is better than any directive below the floor.

    It needs no outcome of a directive, and is therefore much higher than `default_multipliers`.

    Args:
        floor: least ratio of quality to the quality under L0.
        highest_footprint: footprint of a request under L0 in the dirtiest hour, relative to the
            reward's reference.
    """
    return highest_footprint / (1 - min(floor, HIGHEST_FLOOR))


def _spread(trace: IntensityTrace, count: int) -> Float64Array:
    """Return `count` intensities spread evenly over a trace's hours, in random order, gCO2e/kWh."""
    places = np.linspace(0, len(trace.g_per_kwh), count, endpoint=False).astype(np.int64)
    intensities: Float64Array = trace.g_per_kwh[np.random.default_rng(0).permutation(places)]
    return intensities


def _footprints(
    profile: Profile,
    rows: Int64Array,
    reward: Reward,
    intensity: Float64Array,
    *,
    alike: bool = False,
) -> Float64Array:
    """Return footprints relative to the reward's reference, shape (len(intensity), D).

    Args:
        rows: indices of the requests.
        intensity: one for each request, gCO2e/kWh; of any number if `alike` is true.
        alike: whether every request costs as much as their mean.
    """
    energy = profile.outcomes.energy_joules[rows]
    seconds = profile.outcomes.device_seconds[rows]
    if alike:
        energy, seconds = energy.mean(axis=0), seconds.mean(axis=0)
    grams = footprint_grams(
        energy,
        seconds,
        intensity[:, None],
        pue=reward.pue,
        embodied_g_per_second=reward.embodied_g_per_second,
    )
    return grams / reward.footprint_ref_grams
