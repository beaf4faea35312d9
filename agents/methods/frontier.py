"""The cost-score frontier of fixed mixes of directives."""

import numpy as np

from envs.arrays import Float64Array


def frontier_cost(costs: Float64Array, scores: Float64Array, target: Float64Array) -> Float64Array:
    """Return the least cost of a mix of directives whose score is at least `target`.

    The linear program min costs . x subject to scores . x >= target, sum x = 1, x >= 0 has a
    solution with at most two directives, so trying all pairs solves it in closed form. This
    solves many programs at once, as the bootstrap needs. A target above every directive's score
    is replaced by the highest score.

    Args:
        costs, scores: cost and score of each directive, shape (..., D).
        target: shape (...).

    Returns:
        Least costs, shape (...).
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
