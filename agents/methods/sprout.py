"""SPROUT's rules as published: the quality floor, the evaluator's trigger, the "oracle".

Source: Li et al., "SPROUT: Green Generative AI with Carbon-Efficient LLM Inference",
EMNLP 2024, https://aclanthology.org/2024.emnlp-main.1215.
"""

import numpy as np

from envs.arrays import Float64Array, Int64Array
from envs.carbon.clean_hours import is_sprout_hour

# xi of equation (4): fraction of L0's quality that may be lost in the year's dirtiest hour.
XI = 0.1


def quality_floor(
    intensity: Float64Array, year_low: float, year_high: float, xi: float = XI
) -> Float64Array:
    """Return the least quality relative to L0: 1 at the lowest intensity, 1 - xi at the highest.

    Args:
        intensity: gCO2e/kWh, any shape.
        year_low, year_high: least and greatest intensity of the region's year, gCO2e/kWh. They
            are known only in hindsight, so this is for reproduction only.
        xi: fraction of quality that may be lost at `year_high`.
    """
    return 1 - xi * (intensity - year_low) / (year_high - year_low)


def evaluation_hours(intensity: Float64Array) -> list[int]:
    """Return the hours of a window at which the evaluator measures quality again.

    See `envs.carbon.clean_hours.is_sprout_hour`; the mean is the window's.

    Args:
        intensity: intensity of each hour of the window, gCO2e/kWh, shape (hours,).
    """
    mean = float(intensity.mean())
    fired: list[int] = []
    last = 0
    for hour in range(2, len(intensity)):
        recent = intensity[hour - 2 : hour + 1].tolist()
        if is_sprout_hour(recent, mean, hour - last):
            fired.append(hour)
            last = hour
    return fired


def last_evaluation(fired: list[int], hours: int) -> Int64Array:
    """Return the hour of the evaluation in force at each hour, shape (hours,); 0 before the first.

    Args:
        fired: hours from `evaluation_hours`.
        hours: length of the window, h.
    """
    last = np.zeros(hours, dtype=np.int64)
    for hour in fired:
        last[hour:] = hour
    return last


def largest_savings_first(
    grams: Float64Array, shares: Float64Array, weights: Float64Array | None = None
) -> Int64Array:
    """Return the directives of the paper's "oracle": short levels for the requests that save most.

    Levels are assigned in the catalogue's order: brief to the requests for which it saves most,
    very brief to those of the remaining requests for which it saves most, and so on. The
    remaining requests keep L0. The oracle knows each request's cost but not its quality, and is
    not an upper bound on savings.

    Args:
        grams: footprints of n requests in each of G groups, gCO2e, shape (G, n, D).
        shares: share of requests that get each directive, shape (G, D).
        weights: weight of each request in the shares, shape (G, n); None for equal weights.

    Returns:
        Index of each request's directive, shape (G, n).
    """
    groups, count, directives = grams.shape
    weight = np.ones((groups, count)) if weights is None else weights
    actions = np.zeros((groups, count), dtype=np.int64)
    free = np.ones((groups, count), dtype=bool)
    for level in range(1, directives):
        saved = np.where(free, grams[:, :, 0] - grams[:, :, level], -np.inf)
        order = np.argsort(-saved, axis=1)
        ordered = np.take_along_axis(weight, order, axis=1)
        # A request belongs to the share if the middle of its weight lies within the share.
        middle = np.cumsum(ordered, axis=1) - ordered / 2
        first = middle < (shares[:, level] * weight.sum(axis=1))[:, None]
        assigned = np.zeros_like(free)
        np.put_along_axis(assigned, order, first, axis=1)
        assigned &= free
        actions[assigned] = level
        free &= ~assigned
    return actions
