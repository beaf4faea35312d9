"""The judge's preference, with its taste for long answers taken out.

A judge that likes long answers counts against short ones, and brevity is what is tested here. The
idea is that of AlpacaEval's length-controlled win rate (Dubois et al., 2024,
https://arxiv.org/abs/2404.04475): a logistic regression explains the verdicts by the difference in
length, and the controlled rate is what it foretells for answers of equal length.

If every answer under test is shorter than L0's, lengths and quality cannot be told apart by these
pairs alone. Pairs whose answers are known to be equally good tell: there, what the judge prefers it
prefers for its length. They anchor the regression: the effect of length is shared by both kinds of
pairs, and their own intercept is 0.

Control can also flatter: an answer that leaves out what was asked for is short too. So the guard
and floors go by the raw rate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.arrays import Float64Array

_TOLERANCE, _MOST_STEPS = 1e-9, 100
# Variance of the prior on the coefficients: weak, but it keeps them finite where all verdicts of
# one length agree.
_PRIOR_VARIANCE = 25.0
_RESAMPLES = 200
# Judges differ in how fast their taste for length saturates, so the effect of a difference is a sum
# of hyperbolic tangents, from nearly a line to nearly a step; AlpacaEval has one.
_STEEPNESS = (0.5, 1.0, 3.0)


class JudgedPair(NamedTuple):
    """A verdict and the lengths of its two answers.

    Attributes:
        credit: 1 if the judge prefers the answer under test, 1/2 for a tie, 0 if it prefers L0's.
        log_ratio: logarithm of the length of the answer under test over that of L0's.
        equal: whether both answers are known to be equally good.
    """

    credit: float
    log_ratio: float
    equal: bool


class Rates(NamedTuple):
    """Shares of pairs in which the answer under test is preferred, ties half, with 95 % intervals.

    Attributes:
        raw: as the judge says.
        controlled: as it would say of answers of equal length; None without anchoring pairs.
    """

    raw: tuple[float, float, float]
    controlled: tuple[float, float, float] | None


def preference_rates(pairs: Sequence[JudgedPair], seed: int = 0) -> Rates | None:
    """Return the raw and the length-controlled rate of preference; None without pairs under test.

    Intervals are percentiles over resampled pairs.
    """
    columns = np.array(pairs, dtype=np.float64).reshape(-1, 3)
    tested, anchors = columns[columns[:, 2] == 0], columns[columns[:, 2] == 1]
    if not len(tested):
        return None
    rng = np.random.default_rng(seed)
    point = _estimate(tested, anchors)
    resampled = [
        _estimate(rng.choice(tested, len(tested)), _resampled(anchors, rng))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0).tolist()
    raw, controlled = zip(point, low, high, strict=True)
    return Rates(raw, controlled if len(anchors) else None)


def _resampled(rows: Float64Array, rng: np.random.Generator) -> Float64Array:
    return rng.choice(rows, len(rows)) if len(rows) else rows


def _estimate(tested: Float64Array, anchors: Float64Array) -> tuple[float, float]:
    """Return the raw rate, and the rate at equal length by the regression.

    Args:
        tested, anchors: rows of `JudgedPair`.
    """
    raw = float(tested[:, 0].mean())
    if not len(anchors):
        return raw, raw
    rows = np.concatenate([tested, anchors])
    length = rows[:, 1] / (float(rows[:, 1].std()) or 1.0)
    effects = np.tanh(np.multiply.outer(length, _STEEPNESS))
    design = np.column_stack([1 - rows[:, 2], effects])
    coefficients = logistic(design, rows[:, 0])
    return raw, float(1 / (1 + np.exp(-coefficients[0])))


def logistic(design: Float64Array, credit: Float64Array) -> Float64Array:
    """Return the coefficients of a logistic regression, by Newton's method.

    Args:
        design: shape (n, k); without an intercept unless it has one.
        credit: outcomes, 0..1, shape (n,).
    """
    coefficients = np.zeros(design.shape[1])
    penalty = np.eye(design.shape[1]) / _PRIOR_VARIANCE
    for _ in range(_MOST_STEPS):
        rate = 1 / (1 + np.exp(-design @ coefficients))
        gradient = design.T @ (credit - rate) - penalty @ coefficients
        curvature = (design * (rate * (1 - rate))[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature, gradient)
        coefficients = coefficients + step
        if np.abs(step).max() < _TOLERANCE:
            break
    return coefficients
