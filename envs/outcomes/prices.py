"""The prices of quality and latency, which turn constraints into a reward.

A price says how much cost a unit of quality, relative to L0's, or a unit of a latency limit's
excess is worth, in units of the mean cost under L0. As Lagrange multipliers, prices choose a point
of the trade-off: from the least cost at the lowest price of quality to L0's quality at the highest.
"""

from typing import NamedTuple

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
