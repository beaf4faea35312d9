"""Intervals by paired bootstrap (scipy), of one ratio or of many figures at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from envs.arrays import Float64Array

RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | list[float] | None]:
        """As results are written; JSON has no NaN."""
        if np.isnan(self.value):
            return {"value": None, "ci95": None}
        return {"value": self.value, "ci95": [self.low, self.high]}


@dataclass(frozen=True)
class BootstrapFigure:
    """A figure with its values over the same B resamples as other figures'.

    Attributes:
        draws: shape (B,); NaN where a resample leaves the figure undefined.
    """

    value: float
    draws: Float64Array

    @property
    def interval(self) -> Interval:
        """With the 2.5th and 97.5th percentile of the draws."""
        known = self.draws[~np.isnan(self.draws)]
        if np.isnan(self.value) or not known.size:
            return Interval(float("nan"), float("nan"), float("nan"))
        low, high = np.percentile(known, [2.5, 97.5])
        return Interval(self.value, float(low), float(high))


def average_repeats(repeats: Sequence[BootstrapFigure], seed: int = 0) -> BootstrapFigure:
    """The mean over repetitions on the same resamples of the same prompts.

    In each resample the repetitions are drawn with replacement too, so that the interval
    holds for new prompts and new repetitions (two-stage bootstrap; Davison & Hinkley, 1997,
    section 3.8).
    """
    table = np.stack([repeat.draws for repeat in repeats])
    count, resamples = table.shape
    taken = np.random.default_rng(seed).integers(0, count, size=(count, resamples))
    draws = np.take_along_axis(table, taken, axis=0).mean(axis=0)
    return BootstrapFigure(float(np.mean([repeat.value for repeat in repeats])), draws)


def ratio_of_means(numerator: Float64Array, denominator: Float64Array, seed: int = 0) -> Interval:
    """mean(numerator) / mean(denominator) over the same requests, each shape (n,).

    Percentile bootstrap of 4,000 resamples, pairs kept together (Efron & Tibshirani,
    1993, chapter 8). NaN throughout where the denominator's mean is 0.
    """
    base = float(denominator.mean())
    if base == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    value = float(numerator.mean()) / base
    if len(numerator) < 2 or np.ptp(numerator - value * denominator) < 1e-12:
        # The same ratio for every request: nothing to resample.
        return Interval(value, value, value)

    def ratio(top: Float64Array, bottom: Float64Array, axis: int = -1) -> Float64Array:
        below = bottom.mean(axis=axis)
        safe: Float64Array = top.mean(axis=axis) / np.where(below == 0, np.nan, below)
        return safe

    result = bootstrap(
        (numerator, denominator),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Interval(value, float(interval.low), float(interval.high))


def resampled_sums(values: Float64Array, seed: int = 0, resamples: int = 2000) -> Float64Array:
    """Sums of each column over resampled rows, shape (n, K) -> (resamples, K).

    The same rows are drawn for all columns, so that whatever is computed from the sums
    stays paired: the difference of two methods' figures has the interval that its
    percentiles over the resamples give.
    """
    count = len(values)

    def sums(index: Float64Array, axis: int = -1) -> Float64Array:
        drawn = np.atleast_2d(index).astype(np.int64)
        cells = (np.arange(len(drawn))[:, None] * count + drawn).ravel()
        times = np.bincount(cells, minlength=len(drawn) * count).reshape(len(drawn), count)
        found: Float64Array = (times.astype(np.float64) @ values).T
        return found if index.ndim > 1 else found[:, 0]

    result = bootstrap(
        (np.arange(count),),
        sums,
        vectorized=True,
        n_resamples=resamples,
        batch=250,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    drawn: Float64Array = result.bootstrap_distribution.T
    return drawn
