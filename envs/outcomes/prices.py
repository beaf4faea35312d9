"""The prices of quality and latency, which turn constraints into a reward.

A price says how much cost a unit of quality, relative to L0's, or a unit of a latency limit's
excess is worth, in units of the mean cost under L0. As Lagrange multipliers, prices choose a point
of the trade-off: from the least cost at the lowest price of quality to L0's quality at the highest.
"""

from typing import NamedTuple

import numpy as np

from envs.arrays import Float64Array

# Prices of quality from "always the least cost" to "always the best quality".
QUALITY_RANGE = 0.02, 100.0
# Prices of latency. The lowest is as good as none.
LATENCY_RANGE = 0.01, 30.0


class Prices(NamedTuple):
    """Prices of n requests, each of shape (n,)."""

    quality: Float64Array
    latency: Float64Array

    @property
    def scale(self) -> Float64Array:
        """Factor that keeps rewards at different prices of one size, shape (n,).

        With it the weights of cost and constraints sum to 1, as in multi-objective RL that is
        conditioned on weights (Abels et al., 2019, https://arxiv.org/abs/1809.07803).
        """
        scale: Float64Array = 1 / (1 + self.quality + self.latency)
        return scale

    @property
    def logarithms(self) -> tuple[Float64Array, Float64Array]:
        """Logarithms of both prices; that of 0 is a large negative number."""
        quality, latency = (np.log(np.maximum(price, 1e-12)) for price in self)
        return quality, latency


def draw_prices(
    randoms: Float64Array, price_range: tuple[float, float], *, limited: bool
) -> Prices:
    """Return log-uniform prices for n requests.

    Args:
        randoms: uniform random numbers, shape (n, 2).
        price_range: lowest and highest price of quality.
        limited: whether there are latency limits; without them the price of latency is 0.
    """
    quality = _log_uniform(randoms[:, 0], *price_range)
    latency = _log_uniform(randoms[:, 1], *LATENCY_RANGE)
    return Prices(quality, latency if limited else np.zeros(len(randoms)))


def _log_uniform(randoms: Float64Array, low: float, high: float) -> Float64Array:
    values: Float64Array = low * (high / low) ** randoms
    return values
