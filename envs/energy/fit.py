"""What each kind of work costs, fitted to measured windows: non-negative least squares."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from envs.arrays import Float64Array

# Neighbouring windows' errors are not independent: what one reading misses the next one has.
_LAGS = 2
_ROUNDS = 3


@dataclass(frozen=True)
class Fit:
    """Coefficients and how sure they are.

    Attributes:
        values: shape (k,), 0 or more.
        covariance: shape (k, k), of the unbounded estimate: robust to unequal and to
            autocorrelated errors (Newey & West 1987).
        error: standard deviation of a window's residual.
    """

    values: Float64Array
    covariance: Float64Array
    error: float

    @property
    def errors(self) -> Float64Array:
        """Standard errors, shape (k,)."""
        found: Float64Array = np.sqrt(np.diag(self.covariance))
        return found

    @property
    def interval95(self) -> tuple[Float64Array, Float64Array]:
        """Bounds, shape (k,) each; never below 0."""
        half = 1.96 * self.errors
        return np.maximum(0.0, self.values - half), self.values + half


def fit_costs(done: Float64Array, cost: Float64Array, prior: Float64Array) -> Fit:
    """Coefficients of `done` that explain `cost`.

    Args:
        done: work of w windows, shape (w, k).
        cost: joules or seconds of each, shape (w,).
        prior: rough coefficients, shape (k,), all above 0. Only their ratios matter, and only
            for what the windows cannot tell apart, as a steady load does not tell a pass
            from its tokens: each is drawn to the prior, scaled to the windows' sum, as by one
            window that says so with an error as large as itself.
    """
    scaled = prior * max(float(cost.sum()), 1e-12) / max(float((done @ prior).sum()), 1e-12)
    relative = done * scaled
    square, product = relative.T @ relative, relative.T @ cost
    values, pull = np.ones(len(prior)), np.zeros((len(prior), len(prior)))
    variance = 0.0
    for _ in range(_ROUNDS):
        residuals = cost - relative @ values
        variance = float(residuals @ residuals) / max(1, len(cost) - len(prior))
        # Never nothing, where the windows agree to the last digit.
        pull = np.eye(len(prior)) * max(variance, 1e-9 * float(np.trace(square)), 1e-12)
        values = _non_negative(square + pull, product + pull.sum(axis=1))
    residuals = cost - relative @ values
    inverse = np.linalg.inv(square + pull)
    moved = relative * residuals[:, None]
    middle = moved.T @ moved
    for lag in range(1, min(_LAGS, len(cost) - 1) + 1):
        later = moved[lag:].T @ moved[:-lag]
        middle += (1 - lag / (_LAGS + 1)) * (later + later.T)
    covariance = inverse @ (middle + pull @ pull) @ inverse
    return Fit(values * scaled, covariance * np.outer(scaled, scaled), variance**0.5)


def _non_negative(square: Float64Array, product: Float64Array) -> Float64Array:
    """The x >= 0 that minimises x'Ax - 2b'x: the best of the subsets that are feasible.

    With the few kinds of work there are, all subsets are few as well, and the answer exact.
    (SciPy's nnls would do the same; the serving path carries no SciPy.)
    """
    best, least = np.zeros(len(product)), 0.0
    for size in range(1, len(product) + 1):
        for chosen in combinations(range(len(product)), size):
            rows = list(chosen)
            found = np.linalg.solve(square[np.ix_(rows, rows)], product[rows])
            value = -float(found @ product[rows])
            if (found >= 0).all() and value < least:
                best, least = np.zeros(len(product)), value
                best[rows] = found
    return best
