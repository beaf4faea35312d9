"""Intervals of proportions, as SciPy has them, which is too large for the serving path."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

Z95 = NormalDist().inv_cdf(0.975)


def wilson(successes: float, count: float) -> tuple[float, float] | None:
    """Return the 95% interval of a proportion (Wilson, 1927); None for no observations."""
    if not count:
        return None
    p, spread = successes / count, Z95 * Z95 / count
    centre, scale = p + spread / 2, 1 + spread
    width = Z95 * math.sqrt(p * (1 - p) / count + spread / (4 * count))
    return max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale)


class Shares(NamedTuple):
    """An observed proportion: `successes` of `trials`."""

    successes: int
    trials: int

    def evidence(self, p: float) -> float:
        """Return the logarithm of the evidence against a probability p.

        It is that of a martingale, B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) over the likelihood of p
        (Robbins, 1970; the beta-binomial mixture of Howard et al., 2021,
        https://doi.org/10.1214/20-AOS1991). So it ever exceeds ln(1 / alpha) with a probability of
        at most alpha. It is convex in p.
        """
        failures = self.trials - self.successes
        if (p <= 0 and self.successes) or (p >= 1 and failures):
            return math.inf
        mixture = _log_beta(self.successes + 0.5, failures + 0.5) - _log_beta(0.5, 0.5)
        likelihood = self.successes * math.log(p) if self.successes else 0.0
        return mixture - likelihood - (failures * math.log1p(-p) if failures else 0.0)


def anytime_interval(successes: int, count: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return an interval of a proportion that holds at every look, with probability 1 - alpha."""
    shares, bound = Shares(successes, count), math.log(1 / alpha)
    if not count:
        return 0.0, 1.0
    estimate = successes / count
    low, high = (_boundary(lambda p: shares.evidence(p) >= bound, end, estimate) for end in (0, 1))
    return low, high


def anytime_difference(a: Shares, b: Shares, alpha: float = 0.05) -> tuple[float, float]:
    """Return an interval of the difference of two independent proportions, a less b.

    It holds at every look, with probability 1 - alpha: the evidence against both probabilities
    together is the product of two martingales, and the interval has the differences of all pairs
    that it does not exclude.
    """
    if not a.trials or not b.trials:
        return -1.0, 1.0
    bound = math.log(1 / alpha)

    def excluded(difference: float) -> bool:
        """Return whether no pair of probabilities with this difference is possible."""
        low, high = max(0.0, -difference), min(1.0, 1.0 - difference)

        def evidence(p: float) -> float:
            """Return the evidence against p and p + difference together."""
            return a.evidence(p + difference) + b.evidence(p)

        return _least(evidence, low, high) >= bound

    estimate = a.successes / a.trials - b.successes / b.trials
    low, high = (_boundary(excluded, end, estimate) for end in (-1, 1))
    return low, high


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Return about the least value of a convex function, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    value_a, value_b = function(a), function(b)
    for _ in range(40):
        if value_a < value_b:
            high, b, value_b = b, a, value_a
            a = high - ratio * (high - low)
            value_a = function(a)
        else:
            low, a, value_a = a, b, value_b
            b = low + ratio * (high - low)
            value_b = function(b)
    return min(value_a, value_b)


def _boundary(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Return where an interval ends, between an end of its range and a point inside of it."""
    if not excluded(outside):
        return float(outside)
    for _ in range(40):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if excluded(middle) else (outside, middle)
    return float(outside)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
