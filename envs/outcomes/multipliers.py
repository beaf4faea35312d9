"""Multipliers under which whoever maximises the reward keeps every floor."""

import math
from collections.abc import Mapping

import numpy as np

from envs.arrays import BoolArray, Float64Array
from envs.carbon.footprint import footprint_grams
from envs.outcomes.profile import Profile
from envs.outcomes.reward import Reward

# A floor above this may be missed by the difference: a floor of 1 would need an infinite price.
HIGHEST_FLOOR = 0.99


def default_multipliers(
    profile: Profile,
    reward: Reward,
    g_per_kwh: Mapping[str, float],
    steerable: BoolArray,
) -> dict[str, float]:
    """Return a multiplier for each floor under which no task is better off breaking its floor.

    Let S be a policy's mean saving against L0, relative to the reward's reference, and m its mean
    margin (quality relative to L0, less the floor). The reward is S + lambda * m, up to a constant.
    No policy saves more than S_max, which takes the least footprint for each request. So a policy
    that breaks the floor (m < 0) has a smaller reward than always directive b, with its S_b and
    m_b > 0, if lambda >= (S_max - S_b) / m_b. The multiplier is the least of these bounds over all
    directives b, L0 among them. It holds for every policy, whatever the policy knows.

    Args:
        profile: outcomes under every directive.
        reward: supplies floors, references and quality; its multipliers are not used.
        g_per_kwh: mean carbon intensity at the hours of each task's requests, gCO2e/kWh.
        steerable: mask of the requests that a directive changes, shape (requests,).
    """
    outcomes, scores = profile.outcomes, profile.quality(reward.quality)
    multipliers = {}
    for task, floor in reward.floors.items():
        if reward.quality_l0[task] <= 0:
            # The reward has no term for it.
            multipliers[task] = 0.0
            continue
        rows = profile.rows_of(task)
        fixed = ~steerable[rows]
        tables: list[Float64Array] = [
            np.where(fixed[:, None], table[rows][:, :1], table[rows])
            for table in (outcomes.energy_joules, outcomes.device_seconds, scores)
        ]
        energy, seconds, quality = tables
        # The last column has the least of both for each request: S_max at any intensity.
        grams: Float64Array = footprint_grams(
            np.append(energy.mean(axis=0), energy.min(axis=1).mean()),
            np.append(seconds.mean(axis=0), seconds.min(axis=1).mean()),
            np.array([g_per_kwh[task]]),
            pue=reward.pue,
            embodied_g_per_second=reward.embodied_g_per_second,
        )
        more = (grams[:-1] - grams[-1]) / reward.footprint_ref_grams
        # An unknown quality earns no margin, as in the reward.
        margin = np.nan_to_num(quality / reward.quality_l0[task] - floor).mean(axis=0)
        multipliers[task] = min(
            price_bound(float(saving), float(spare), floor)
            for saving, spare in zip(more, margin, strict=True)
        )
    return multipliers


def price_bound(saving: float, margin: float, floor: float) -> float:
    """Return the price at which a margin outweighs a saving; infinity if no price does.

    Args:
        saving: how much more the floor's breakers can save, relative to the reference footprint.
        margin: margin of the alternative above the floor.
        floor: the floor; above `HIGHEST_FLOOR` it is priced as if it could be missed a little.
    """
    margin += max(0.0, floor - HIGHEST_FLOOR)
    return max(0.0, saving) / margin if margin > 1e-9 else math.inf
