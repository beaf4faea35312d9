"""SPROUT's rules as published: its floor, its evaluator's trigger, its "oracle".

Source: Li et al., "SPROUT: Green Generative AI with Carbon-Efficient LLM Inference",
EMNLP 2024, https://aclanthology.org/2024.emnlp-main.1215.
"""

import numpy as np

from envs.arrays import Float64Array, Int64Array

# xi of equation (4): how much of L0's quality may be given up at the year's dirtiest hour.
XI = 0.1
# The evaluator of section 3.4: urgency grows by this an hour, with a grace and a limit in hours.
URGENCY_PER_HOUR = 0.029
GRACE_HOURS = 7
LIMIT_HOURS = 72


def quality_floor(
    intensity: Float64Array, year_low: float, year_high: float, xi: float = XI
) -> Float64Array:
    """Least quality relative to L0's: 1 at the year's lowest intensity, 1 - xi at its highest.

    Args:
        intensity: gCO2e/kWh, any shape.
        year_low, year_high: extremes of the region's year. They look ahead: for
            reproduction only.
    """
    return 1 - xi * (intensity - year_low) / (year_high - year_low)


def evaluation_hours(intensity: Float64Array) -> list[int]:
    """Hours of a window at which the evaluator measures quality anew.

    With a(t) = I(t) exp(0.029 (t - t_last)), it fires when the step of `a` seen an hour
    ago was not upwards and the step now is not downwards, the intensity is at most the
    window's mean (which looks ahead) and 7 hours have passed; or after 72 hours.

    Args:
        intensity: of each hour of the window, gCO2e/kWh, shape (hours,).
    """
    mean = float(intensity.mean())
    fired: list[int] = []
    last = 0
    for hour in range(2, len(intensity)):
        urgency = intensity[hour - 2 : hour + 1] * np.exp(
            URGENCY_PER_HOUR * (np.arange(hour - 2, hour + 1) - last)
        )
        trough = urgency[1] <= urgency[0] and urgency[2] >= urgency[1]
        waited = hour - last
        if (trough and intensity[hour] <= mean and waited >= GRACE_HOURS) or waited >= LIMIT_HOURS:
            fired.append(hour)
            last = hour
    return fired


def last_evaluation(fired: list[int], hours: int) -> Int64Array:
    """For each hour the hour whose evaluation is in force, shape (hours,); 0 before the first."""
    last = np.zeros(hours, dtype=np.int64)
    for hour in fired:
        last[hour:] = hour
    return last


def largest_savings_first(
    grams: Float64Array, shares: Float64Array, weights: Float64Array | None = None
) -> Int64Array:
    """Directives of the paper's "oracle": short levels to the requests that save most by them.

    Level by level in the catalogue's order: brief goes to the requests that it saves most
    on, very brief to those of the rest that it saves most on, and so on; the last ones
    keep L0. It knows each request's cost but not its quality, and is no upper bound.

    Args:
        grams: footprints, shape (G, n, D): n requests in each of G groups.
        shares: of each directive, shape (G, D).
        weights: what each request counts for in the shares, shape (G, n); default 1.

    Returns:
        Shape (G, n).
    """
    groups, count, directives = grams.shape
    counts_for = np.ones((groups, count)) if weights is None else weights
    actions = np.zeros((groups, count), dtype=np.int64)
    free = np.ones((groups, count), dtype=bool)
    for level in range(1, directives):
        saved = np.where(free, grams[:, :, 0] - grams[:, :, level], -np.inf)
        order = np.argsort(-saved, axis=1)
        ordered = np.take_along_axis(counts_for, order, axis=1)
        # Up to the request whose middle still lies within the share.
        middle = np.cumsum(ordered, axis=1) - ordered / 2
        first = middle < (shares[:, level] * counts_for.sum(axis=1))[:, None]
        chosen = np.zeros_like(free)
        np.put_along_axis(chosen, order, first, axis=1)
        chosen &= free
        actions[chosen] = level
        free &= ~chosen
    return actions
