"""Confidence intervals by paired bootstrap (scipy), for one ratio or for many figures at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, ttest_1samp

from envs.arrays import Float64Array

RESAMPLES = 4000
# Runs below which there is no interval over runs.
FEWEST_RUNS = 5


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval, from `low` to `high`; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """True if there is an interval."""
        return not np.isnan(self.low)

    @property
    def sign(self) -> int:
        """1 or -1 if the whole interval has this sign, else 0."""
        return int(self.low > 0) - int(self.high < 0) if self.is_known else 0

    def to_json(self) -> dict[str, float | list[float] | None]:
        """Return the interval as JSON-ready values; NaN becomes None, as JSON has no NaN."""
        if np.isnan(self.value):
            return {"value": None, "ci95": None}
        return {"value": self.value, "ci95": [self.low, self.high] if self.is_known else None}

    def text(self, digits: int, sign: str = "") -> str:
        """Return the figure and its interval as text.

        Args:
            sign: "+" to write the sign of positive values too.
        """
        value = f"{self.value:{sign}.{digits}f}"
        if not self.is_known:
            return value
        return f"{value} [{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]"


def mean_of_runs(values: Float64Array) -> Interval:
    """Return the mean over independent runs with its t interval, shape (n,).

    Fewer than `FEWEST_RUNS` runs, or runs that are all equal, give no interval: their spread is
    hardly known.
    """
    value = float(values.mean())
    if len(values) < FEWEST_RUNS or np.ptp(values) < 1e-12:
        return Interval(value, float("nan"), float("nan"))
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class BootstrapFigure:
    """A figure with its values in B resamples, which it shares with other figures.

    Attributes:
        value: the figure in the whole sample.
        draws: its values in the resamples, shape (B,); NaN if undefined in a resample.
    """

    value: float
    draws: Float64Array

    @property
    def interval(self) -> Interval:
        """The figure with the 2.5th and the 97.5th percentile of its draws."""
        defined = self.draws[~np.isnan(self.draws)]
        if np.isnan(self.value) or not defined.size:
            return Interval(float("nan"), float("nan"), float("nan"))
        low, high = np.percentile(defined, [2.5, 97.5])
        return Interval(self.value, float(low), float(high))


def average_repeats(repeats: Sequence[BootstrapFigure], seed: int = 0) -> BootstrapFigure:
    """Return the mean over repetitions that share the same resamples of the same prompts.

    Each resample also draws the repetitions with replacement, so that the interval is valid for
    new prompts and new repetitions (two-stage bootstrap; Davison & Hinkley, 1997, section 3.8).
    """
    table = np.stack([repeat.draws for repeat in repeats])
    count, resamples = table.shape
    chosen = np.random.default_rng(seed).integers(0, count, size=(count, resamples))
    draws = np.take_along_axis(table, chosen, axis=0).mean(axis=0)
    return BootstrapFigure(float(np.mean([repeat.value for repeat in repeats])), draws)


def ratio_of_means(numerator: Float64Array, denominator: Float64Array, seed: int = 0) -> Interval:
    """Return mean(numerator) / mean(denominator) with its interval.

    Percentile bootstrap of 4,000 resamples that keeps pairs together (Efron & Tibshirani, 1993,
    chapter 8). All values are NaN if the denominator's mean is 0.

    Args:
        numerator: value of each request, shape (n,).
        denominator: value of the same requests, shape (n,).
        seed: seed of the resampling.
    """
    denominator_mean = float(denominator.mean())
    if denominator_mean == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    value = float(numerator.mean()) / denominator_mean
    if len(numerator) < 2 or np.ptp(numerator - value * denominator) < 1e-12:
        # Every request has the same ratio, so all resamples would be equal.
        return Interval(value, value, value)

    def ratio(top: Float64Array, bottom: Float64Array, axis: int = -1) -> Float64Array:
        means = bottom.mean(axis=axis)
        ratios: Float64Array = top.mean(axis=axis) / np.where(means == 0, np.nan, means)
        return ratios

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
    """Return the sums of each column over resampled rows, shape (resamples, K).

    The same rows are drawn for all columns, so figures that are computed from the sums stay
    paired: the percentiles of the difference of two methods' figures are its interval.

    Args:
        values: shape (n, K).
        seed: seed of the resampling.
        resamples: number of resamples.
    """
    count = len(values)

    def sums(index: Float64Array, axis: int = -1) -> Float64Array:
        drawn = np.atleast_2d(index).astype(np.int64)
        cells = (np.arange(len(drawn))[:, None] * count + drawn).ravel()
        counts = np.bincount(cells, minlength=len(drawn) * count).reshape(len(drawn), count)
        totals: Float64Array = (counts.astype(np.float64) @ values).T
        return totals if index.ndim > 1 else totals[:, 0]

    result = bootstrap(
        (np.arange(count),),
        sums,
        vectorized=True,
        n_resamples=resamples,
        batch=250,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    distribution: Float64Array = result.bootstrap_distribution.T
    return distribution
