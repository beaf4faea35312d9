"""Intervals by paired bootstrap (scipy), of one ratio or of many figures at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

Floats = NDArray[np.float64]
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


def ratio_of_means(numerator: Floats, denominator: Floats, seed: int = 0) -> Interval:
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

    def ratio(top: Floats, bottom: Floats, axis: int = -1) -> Floats:
        below = bottom.mean(axis=axis)
        safe: Floats = top.mean(axis=axis) / np.where(below == 0, np.nan, below)
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


def resampled_sums(values: Floats, seed: int = 0, resamples: int = 2000) -> Floats:
    """Sums of each column over resampled rows, shape (n, K) -> (resamples, K).

    The same rows are drawn for all columns, so that whatever is computed from the sums
    stays paired: the difference of two methods' figures has the interval that its
    percentiles over the resamples give.
    """
    count = len(values)

    def sums(index: Floats, axis: int = -1) -> Floats:
        drawn = np.atleast_2d(index).astype(np.int64)
        cells = (np.arange(len(drawn))[:, None] * count + drawn).ravel()
        times = np.bincount(cells, minlength=len(drawn) * count).reshape(len(drawn), count)
        found: Floats = (times.astype(np.float64) @ values).T
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
    drawn: Floats = result.bootstrap_distribution.T
    return drawn


def interval(value: float, resampled: Floats) -> Interval:
    """A figure with the 2.5th and 97.5th percentile of its resampled values."""
    known = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not known.size:
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high))
