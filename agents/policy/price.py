"""The price of quality that a policy's training ended with."""

from collections.abc import Mapping
from typing import Any

from envs.outcomes.floors import BANDS
from envs.outcomes.reward import untagged_name


def quality_prices(manifest: Mapping[str, Any], *, tagged: bool) -> dict[str, float]:
    """Return, by task, the emissions that a unit of L0's mean quality is worth, gCO2e.

    From the Lagrange multipliers: the reward weighs a loss of that unit like so much carbon
    (`envs.outcomes.reward.Reward`). A task whose price is unknown is left out.

    Args:
        manifest: the policy's.
        tagged: whether requests show their task's tag.
    """
    grams, multipliers = manifest.get("footprint_ref_grams"), manifest.get("multipliers") or {}
    prices = {}
    for task in manifest.get("tasks", ()):
        names = (task, *(f"{task}, {band}" for band in BANDS))
        known = [
            multipliers[name if tagged else untagged_name(name)]
            for name in names
            if (name if tagged else untagged_name(name)) in multipliers
        ]
        if grams is not None and known:
            prices[task] = grams * sum(known) / len(known)
    return prices
