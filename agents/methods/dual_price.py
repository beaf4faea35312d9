"""The dual price: each request takes what is cheapest when a unit of score has a price."""

import numpy as np

from envs.arrays import Float64Array, Int64Array


def cheapest_choices(costs: Float64Array, scores: Float64Array, least: float) -> Float64Array:
    """The cheapest choice for n requests whose summed score is at least `least`.

    The linear program min sum costs . x subject to sum scores . x >= least and each
    request's x a distribution, solved exactly through its one multiplier (Everett,
    1963): under a price per unit of score the requests do not meet, the total score only
    rises with the price, and between two neighbouring prices at which some request
    changes its mind nothing changes. At the price where the total passes `least` the two
    neighbouring choices are mixed.

    Args:
        costs, scores: shape (n, D).
        least: total score to reach.

    Returns:
        Probabilities of shape (n, D): one choice for all but the requests that change
        at the final price.

    Raises:
        ValueError: `least` is above what the best choices reach.
    """
    reached = float(scores.max(axis=1).sum())
    if least > reached + 1e-9 * max(1.0, abs(least)):
        raise ValueError(f"a total score of {least:g} was asked for; {reached:g} is possible")
    prices = _between(_turns(costs, scores))
    # Invariant: `low` is a price too low (or the lowest), `high` reaches `least`.
    low, high = 0, len(prices) - 1
    cheap = _taken(costs, scores, prices[low])
    if _total(scores, cheap) >= least:
        return _one_hot(cheap, scores.shape[1])
    dear = _taken(costs, scores, prices[high])
    while high - low > 1:
        middle = (low + high) // 2
        taken = _taken(costs, scores, prices[middle])
        if _total(scores, taken) >= least:
            high, dear = middle, taken
        else:
            low, cheap = middle, taken
    below, above = _total(scores, cheap), _total(scores, dear)
    share = min(1.0, (least - below) / (above - below)) if above > below else 1.0
    width = scores.shape[1]
    return (1 - share) * _one_hot(cheap, width) + share * _one_hot(dear, width)


def _turns(costs: Float64Array, scores: Float64Array) -> Float64Array:
    """Prices above 0 at which a request is indifferent between two of its options, sorted."""
    found = []
    for a in range(costs.shape[1]):
        for b in range(a):
            more_score = scores[:, a] - scores[:, b]
            more_cost = costs[:, a] - costs[:, b]
            differ = more_score != 0
            found.append(more_cost[differ] / more_score[differ])
    turns = np.unique(np.concatenate(found))
    return turns[turns > 0]


def _between(turns: Float64Array) -> Float64Array:
    """A price below all turns, one between each two, and one above all."""
    if not turns.size:
        return np.array([1.0])
    return np.concatenate([turns[:1] / 2, (turns[1:] + turns[:-1]) / 2, turns[-1:] * 2])


def _taken(costs: Float64Array, scores: Float64Array, price: float) -> Int64Array:
    taken: Int64Array = (costs - price * scores).argmin(axis=1)
    return taken


def _total(scores: Float64Array, taken: Int64Array) -> float:
    return float(scores[np.arange(len(taken)), taken].sum())


def _one_hot(taken: Int64Array, width: int) -> Float64Array:
    chosen: Float64Array = np.eye(width)[taken]
    return chosen
