"""Choice by dual price: each request takes the option with the least cost minus price * score."""

import numpy as np

from envs.arrays import Float64Array, Int64Array


def cheapest_choices(costs: Float64Array, scores: Float64Array, least: float) -> Float64Array:
    """Return the cheapest choices for n requests whose total score is at least `least`.

    Solves this linear program exactly: minimise sum costs . x subject to sum scores . x >= least,
    where each request's x is a distribution. It has one coupling constraint, hence one Lagrange
    multiplier, the price of a unit of score (Everett, 1963). At a given price the requests are
    independent. The total score never falls as the price rises, and it changes only at prices at
    which some request is indifferent between two options. At the price where the total passes
    `least`, the choices just below and just above that price are mixed.

    Args:
        costs, scores: shape (n, D).
        least: total score to reach.

    Returns:
        Probabilities of shape (n, D): 0 or 1, except for the requests whose choice changes at
        the final price.

    Raises:
        ValueError: `least` exceeds the highest total score possible.
    """
    highest = float(scores.max(axis=1).sum())
    if least > highest + 1e-9 * max(1.0, abs(least)):
        raise ValueError(
            f"least: total score {least:g} is out of reach; at most {highest:g} is possible"
        )
    prices = candidate_prices(costs, scores)
    # Binary search. Invariant: prices[low] does not reach `least`, prices[high] does.
    low, high = 0, len(prices) - 1
    low_choices = _choices(costs, scores, prices[low])
    if _total(scores, low_choices) >= least:
        return _one_hot(low_choices, scores.shape[1])
    high_choices = _choices(costs, scores, prices[high])
    while high - low > 1:
        middle = (low + high) // 2
        choices = _choices(costs, scores, prices[middle])
        if _total(scores, choices) >= least:
            high, high_choices = middle, choices
        else:
            low, low_choices = middle, choices
    below, above = _total(scores, low_choices), _total(scores, high_choices)
    share = min(1.0, (least - below) / (above - below)) if above > below else 1.0
    width = scores.shape[1]
    return (1 - share) * _one_hot(low_choices, width) + share * _one_hot(high_choices, width)


def candidate_prices(costs: Float64Array, scores: Float64Array) -> Float64Array:
    """Return ascending prices, above 0, that lead to all the different choices.

    At a turning price some request is indifferent between two options. One of the returned prices
    is below all turning prices, one lies between each two neighbours, and one is above all.

    Args:
        costs, scores: shape (n, D).
    """
    ratios = []
    for a in range(costs.shape[1]):
        for b in range(a):
            more_score = scores[:, a] - scores[:, b]
            more_cost = costs[:, a] - costs[:, b]
            differ = more_score != 0
            ratios.append(more_cost[differ] / more_score[differ])
    turns = np.unique(np.concatenate([np.empty(0), *ratios]))
    turns = turns[turns > 0]
    if not turns.size:
        return np.array([1.0])
    return np.concatenate([turns[:1] / 2, (turns[1:] + turns[:-1]) / 2, turns[-1:] * 2])


def _choices(costs: Float64Array, scores: Float64Array, price: float) -> Int64Array:
    choices: Int64Array = (costs - price * scores).argmin(axis=1)
    return choices


def _total(scores: Float64Array, choices: Int64Array) -> float:
    return float(scores[np.arange(len(choices)), choices].sum())


def _one_hot(choices: Int64Array, width: int) -> Float64Array:
    probabilities: Float64Array = np.eye(width)[choices]
    return probabilities
