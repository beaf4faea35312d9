"""A confidence sequence of the quality relative to L0: an interval that holds at every look.

The ratio r is E[y] / E[y0], of the answers under test and of L0's answers to the same requests.
For each candidate r on a grid, the products of 1 + b (y - r y0) and of 1 - b (y - r y0) are
martingales if r is the ratio, so each exceeds 2 / alpha with a probability of at most alpha / 2
(Ville's inequality). The interval holds the candidates of which neither did (betting:
Waudby-Smith and Ramdas, 2024, https://doi.org/10.1093/jrsssb/qkad009).
"""

import numpy as np

from envs.arrays import BoolArray, Float64Array
from serving.quality.detector import BETS

# Candidate ratios. A directive's answers may be better than L0's.
RATIOS: Float64Array = np.linspace(0.0, 2.0, 401)


class RatioSequence:
    """Confidence sequence of one stream's quality relative to L0.

    It holds for a ratio that does not change; after a change of policy or model, start a new one.
    Requests are weighted as in `serving.quality.detector.Detector`.

    Args:
        alpha: probability that the interval ever misses the ratio.

    Attributes:
        low, high: the interval; `high` is infinite until there is evidence against high ratios.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        self.low, self.high = 0.0, float("inf")
        self._bound = np.log(2 / alpha)
        self._for_higher = np.zeros((len(RATIOS), len(BETS)))
        self._for_lower = np.zeros_like(self._for_higher)
        self._quality = self._l0 = 0.0

    @property
    def ratio(self) -> float | None:
        """The weighted ratio of the judged requests; None while L0 has no quality."""
        return self._quality / self._l0 if self._l0 > 0 else None

    def add(
        self,
        quality: float,
        l0: float,
        probability: float,
        count: int = 1,
    ) -> None:
        """Count a judged request, or several that are alike; `look` then takes it into account.

        Args:
            quality: y, 0..1.
            l0: y0, 0..1.
            probability: the request's probability to be judged, above 0.
            count: number of requests.
        """
        self._quality += count * quality / probability
        self._l0 += count * l0 / probability
        differences = (quality - RATIOS * l0)[:, None]
        # A bet on a higher ratio may lose r times its share. The same shares for every candidate
        # order the evidence by candidate, so that what is refuted has no gaps.
        self._for_higher += count * np.log1p(BETS / RATIOS[-1] * differences)
        self._for_lower += count * np.log1p(-BETS * differences)

    def look(self) -> None:
        """Narrow the interval by the requests that were counted.

        Looks must not depend on what the requests of one look were, such as only after good ones.
        """
        too_low, too_high = self._refuted(self._for_higher), self._refuted(self._for_lower)
        if too_low.any():
            self.low = max(self.low, float(RATIOS[too_low].max()))
        if too_high.any():
            self.high = min(self.high, float(RATIOS[too_high].min()))

    def _refuted(self, logs: Float64Array) -> BoolArray:
        """Return whether the evidence against each candidate exceeds the bound."""
        most = logs.max(axis=1)
        mean = np.exp(logs - most[:, None]).mean(axis=1)
        return np.asarray(most + np.log(mean) >= self._bound, dtype=np.bool_)
