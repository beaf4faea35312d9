"""Fit the cost of each kind of work to measured windows by non-negative least squares."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from envs.arrays import Float64Array

# Errors of neighbouring windows are correlated: energy that one reading misses is in the next.
_LAGS = 2
_ROUNDS = 3


@dataclass(frozen=True)
class Fit:
    """Fitted coefficients and their uncertainty.

    Attributes:
        values: coefficients, 0 or more, shape (k,).
        covariance: covariance of the estimate without bounds, shape (k, k); robust to
            heteroscedastic and autocorrelated errors (Newey & West 1987).
        error: standard deviation of a window's residual, in the unit of the cost.
    """

    values: Float64Array
    covariance: Float64Array
    error: float

    @property
    def errors(self) -> Float64Array:
        """Standard errors of the coefficients, shape (k,)."""
        standard_errors: Float64Array = np.sqrt(np.diag(self.covariance))
        return standard_errors

    @property
    def interval95(self) -> tuple[Float64Array, Float64Array]:
        """Lower and upper bounds of the 95 % intervals, shape (k,) each; never below 0."""
        half = 1.96 * self.errors
        return np.maximum(0.0, self.values - half), self.values + half


def fit_costs(done: Float64Array, cost: Float64Array, prior: Float64Array) -> Fit:
    """Fit the coefficients that best explain `cost` by `done`.

    Args:
        done: work in each of w windows, shape (w, k).
        cost: joules or seconds of each window, shape (w,).
        prior: rough coefficients, shape (k,), all above 0. Only their ratios matter, and only
            where the windows cannot separate two kinds of work. (Under a steady load, for
            example, the number of passes is proportional to the number of tokens.) The prior is
            scaled to the windows' total cost and counts as one extra observation of each
            coefficient, with a standard error of 100 %.
    """
    scaled = prior * max(float(cost.sum()), 1e-12) / max(float((done @ prior).sum()), 1e-12)
    relative = done * scaled
    square, product = relative.T @ relative, relative.T @ cost
    values, pull = np.ones(len(prior)), np.zeros((len(prior), len(prior)))
    variance = 0.0
    for _ in range(_ROUNDS):
        residuals = cost - relative @ values
        variance = float(residuals @ residuals) / max(1, len(cost) - len(prior))
        # Keep the pull above 0 even if the windows agree to the last digit.
        pull = np.eye(len(prior)) * max(variance, 1e-9 * float(np.trace(square)), 1e-12)
        values = _non_negative(square + pull, product + pull.sum(axis=1))
    residuals = cost - relative @ values
    inverse = np.linalg.inv(square + pull)
    scores = relative * residuals[:, None]
    middle = scores.T @ scores
    for lag in range(1, min(_LAGS, len(cost) - 1) + 1):
        lagged = scores[lag:].T @ scores[:-lag]
        middle += (1 - lag / (_LAGS + 1)) * (lagged + lagged.T)
    covariance = inverse @ (middle + pull @ pull) @ inverse
    return Fit(values * scaled, covariance * np.outer(scaled, scaled), variance**0.5)


def _non_negative(square: Float64Array, product: Float64Array) -> Float64Array:
    """Return the x >= 0 that minimises x'Ax - 2b'x, A being `square` and b `product`.

    The search tries every subset of non-zero entries. There are few kinds of work, so there are
    few subsets, and the answer is exact. (SciPy's nnls would do the same, but the serving path
    does not install SciPy.)
    """
    best, lowest = np.zeros(len(product)), 0.0
    for size in range(1, len(product) + 1):
        for subset in combinations(range(len(product)), size):
            rows = list(subset)
            solution = np.linalg.solve(square[np.ix_(rows, rows)], product[rows])
            objective = -float(solution @ product[rows])
            if (solution >= 0).all() and objective < lowest:
                best, lowest = np.zeros(len(product)), objective
                best[rows] = solution
    return best
