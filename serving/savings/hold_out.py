"""Means of both arms of a random hold-out, and intervals of what is computed from them.

Augmented inverse-propensity weighting (Robins, Rotnitzky & Zhao, 1994): a regression, corrected by
each arm's residuals, weighted by their known propensities. The propensities keep the estimate
unbiased even if the regression is wrong; the regression only reduces the variance. Only the draws
are independent: errors are summed by draw before they are squared.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from envs.arrays import BoolArray, Float64Array, Int64Array
from serving.proportions import Z95

# Fewest draws of one opening in each arm whose residuals tell how the arms' spreads compare.
_FEWEST_SINGLE = 10


@dataclass(frozen=True)
class ArmMean:
    """Estimated mean over all openings, had all been in one arm.

    Attributes:
        value: the mean.
        centred: the regression's prediction less the mean, shape (n,).
        residual: observation less prediction in this arm, 0 in the other one, shape (n,).
        under_l0: whether the arm is the one that is held out.
    """

    value: float
    centred: Float64Array
    residual: Float64Array
    under_l0: bool


class Term(NamedTuple):
    """A figure's derivative by a mean, and the mean."""

    slope: float
    mean: ArmMean


class _Draws(NamedTuple):
    """Sums over the openings of each draw, shape (draws,) each: predictions and both residuals."""

    centred: Float64Array
    residual0: Float64Array
    residual1: Float64Array


@dataclass(frozen=True)
class HoldOut:
    """The design of one experiment with n openings.

    Attributes:
        held_out: whether each opening was held out, shape (n,).
        ratio: probability of being held out, shape (n,).
        design: covariates known before the draw, with a column of ones, shape (n, k).
        draw: draw of each opening, numbered from 0, shape (n,).
    """

    held_out: BoolArray
    ratio: Float64Array
    design: Float64Array
    draw: Int64Array

    def means(self, values: Float64Array) -> tuple[ArmMean, ArmMean]:
        """Return the means under L0 and under the policy.

        The regression is fitted in the larger arm, the one that was not held out. For the hold-out
        it is only shifted and scaled: two coefficients do not overfit even this small arm.

        Args:
            values: a value of each opening, shape (n,).
        """
        held_out, design = self.held_out, self.design
        fit1 = design @ np.linalg.lstsq(design[~held_out], values[~held_out], rcond=None)[0]
        scaled = np.column_stack([np.ones(len(values)), fit1])
        fit0 = scaled @ np.linalg.lstsq(scaled[held_out], values[held_out], rcond=None)[0]
        residual0 = np.where(held_out, values - fit0, 0.0)
        residual1 = np.where(held_out, 0.0, values - fit1)
        mean0 = float((fit0 + residual0 / self.ratio).mean())
        mean1 = float((fit1 + residual1 / (1 - self.ratio)).mean())
        # Least squares makes residuals too small; corrected as in HC1.
        count = len(np.unique(self.draw[held_out]))
        residual0 *= np.sqrt(count / (count - 2))
        return (
            ArmMean(mean0, fit0 - mean0, residual0, True),
            ArmMean(mean1, fit1 - mean1, residual1, False),
        )

    def half_width(self, *terms: Term) -> float:
        """Return half the width of the 95% interval of a figure, by the delta method.

        The larger one of two variances is used. The first one is that of the observed influences.
        The second one replaces, for draws shared by several openings, the observed influence by
        its expectation over the draw, with the residuals of the arm that was not drawn assumed as
        large as those of the other arm. Without it, a few large draws that happen to fall into
        the same arm would make the interval too narrow.

        Args:
            terms: the means that the figure is computed from.
        """
        draws = self._sums(*terms)
        a, b, held, single = draws.residual0, draws.residual1, self._held, self._size == 1
        spread = _spread_ratio(a[held], b[~held], single[held], single[~held])
        a2 = np.where(held, a**2, spread * b**2)
        b2 = np.where(held, a**2 / spread, b**2)
        odds = self._chance / (1 - self._chance)
        expected = draws.centred**2 + a2 / odds + b2 * odds + 2 * np.sqrt(a2 * b2)
        observed = self._influence(draws) ** 2
        return max(
            _half_width(observed, len(self.draw)),
            _half_width(np.where(single, observed, expected), len(self.draw)),
        )

    def covariance(self, first: ArmMean, second: ArmMean) -> float:
        """Return the covariance of two means' estimates."""
        influences = [self._influence(self._sums(Term(1, mean))) for mean in (first, second)]
        return float(influences[0] @ influences[1]) / len(self.draw) ** 2

    @cached_property
    def _size(self) -> Int64Array:
        """Openings of each draw, shape (draws,)."""
        return np.bincount(self.draw)

    @cached_property
    def _held(self) -> BoolArray:
        """Mask of the draws that are held out, shape (draws,)."""
        return np.bincount(self.draw, self.held_out) > 0

    @cached_property
    def _chance(self) -> Float64Array:
        """Probability of being held out, shape (draws,)."""
        return np.bincount(self.draw, self.ratio) / self._size

    def _sums(self, *terms: Term) -> _Draws:
        sums = np.zeros((3, len(self._size)))
        for slope, mean in terms:
            sums[0] += slope * np.bincount(self.draw, mean.centred)
            sums[1 if mean.under_l0 else 2] += slope * np.bincount(self.draw, mean.residual)
        return _Draws(*sums)

    def _influence(self, draws: _Draws) -> Float64Array:
        """Return each draw's part in the error of an estimate, shape (draws,)."""
        return draws.centred + draws.residual0 / self._chance + draws.residual1 / (1 - self._chance)


def _spread_ratio(
    a: Float64Array, b: Float64Array, single_a: BoolArray, single_b: BoolArray
) -> float:
    """Return the mean squared residual under L0 divided by that under the policy, at least 1."""
    if min(single_a.sum(), single_b.sum()) >= _FEWEST_SINGLE:
        a, b = a[single_a], b[single_b]
    squares = float((b**2).mean())
    return max(1.0, float((a**2).mean()) / squares) if squares > 0 else 1.0


def _half_width(squares: Float64Array, count: int) -> float:
    """Return half the width of a mean's 95% interval.

    Student's t, with as many degrees of freedom as the chi-squared distribution that varies as
    much as the sum of squares does (Satterthwaite, 1946): few, if a few draws cause most of it.

    Args:
        squares: squared influence of each draw, shape (draws,).
        count: number of openings.
    """
    total, draws = float(squares.sum()), len(squares)
    if total == 0:
        return 0.0
    spread = max(float((squares**2).sum()) - total**2 / draws, total**2 * 1e-9)
    return (
        _student(max(3.0, 2 * total**2 / spread))
        * float(np.sqrt(total * draws / (draws - 1)))
        / count
    )


def _student(freedom: float) -> float:
    """Return the 97.5% quantile of Student's t, accurate to 1% from 3 degrees of freedom on.

    Cornish-Fisher expansion (Abramowitz & Stegun 26.7.5).
    """
    z = Z95
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
