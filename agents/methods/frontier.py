"""The frontier of fixed mixes: the least cost at which a mix of directives reaches a score."""

import numpy as np

from envs.arrays import Float64Array


def frontier_cost(costs: Float64Array, scores: Float64Array, target: Float64Array) -> Float64Array:
    """Least cost of any mix whose score is at least `target`, in closed form.

    The linear program min costs . x, scores . x >= target, sum x = 1, x >= 0 has a
    solution on at most two directives, so all pairs are tried: many programs at once,
    as the bootstrap needs them. A target above every directive's score counts as the
    highest score.

    Args:
        costs, scores: shape (..., D).
        target: shape (...).

    Returns:
        Shape (...).
    """
    reachable = np.minimum(target, scores.max(axis=-1))
    best = np.full(np.shape(reachable), np.inf)
    directives = costs.shape[-1]
    for a in range(directives):
        best = np.where(scores[..., a] >= reachable, np.minimum(best, costs[..., a]), best)
        for b in range(directives):
            high, low = scores[..., a], scores[..., b]
            span = high - low
            inside = (span > 0) & (low <= reachable) & (reachable <= high)
            share = (reachable - low) / np.where(span > 0, span, 1)
            cost = share * costs[..., a] + (1 - share) * costs[..., b]
            best = np.where(inside, np.minimum(best, cost), best)
    return best
