"""Detectors of a change in quality, with a stated bound on their false alarms.

The evidence of one judged request is the difference d = y - f y0: the quality y of the answer
under test, less the floor f times the quality y0 of L0's answer to the same request, both in
0..1. The floor is kept as long as the expectation of d is not below 0.

A mean since the start sees a late fall ever more slowly. So these are Shiryaev-Roberts
e-detectors (Shin, Ramdas and Rinaldo, 2024, https://doi.org/10.51387/23-NEJSDS51): the sum, over
all requests at which a change could have begun, of the evidence since then.
"""

import numpy as np

from envs.arrays import AnyArray, BoolArray, Float64Array

# Shares of the evidence that are bet on the next difference. The best one is about the change
# over the variance of d, which is unknown, so several are mixed.
BETS: Float64Array = np.geomspace(0.01, 0.95, 12)


class Detector:
    """Shiryaev-Roberts e-detector over the requests of one stream, or of several side by side.

    As long as nothing has changed, the expected evidence grows by at most 1 a request, whatever the
    dependence on the past. So, by optional stopping, an alarm within T requests has a probability
    of at most T / threshold, and a false alarm comes after `threshold` requests or more in the
    mean. A stream that starts again after each alarm has at most T / threshold false alarms in T
    requests in the mean.

    A request that is judged with probability p stands for 1 / p requests (inverse-probability
    weights: Waudby-Smith et al., 2022, https://arxiv.org/abs/2210.10768). The probability may
    change in time. It must not depend on the request, or the bet would have to shrink with it.

    Args:
        falls: whether to detect that the expectation of d has fallen below 0; False detects that
            it has risen above 0.
        threshold: evidence from which on there is an alarm.
        streams: number of streams.

    Attributes:
        evidence: evidence for a change, shape (streams,).
        by_bet: the same for each of `BETS`, shape (streams, bets).
    """

    def __init__(self, *, falls: bool, threshold: float, streams: int = 1) -> None:
        self.threshold = threshold
        self._sign = -1.0 if falls else 1.0
        self.by_bet = np.zeros((streams, len(BETS)))

    @property
    def evidence(self) -> Float64Array:
        """The mean over the shares."""
        mean: Float64Array = self.by_bet.mean(axis=1)
        return mean

    @property
    def alarms(self) -> BoolArray:
        """The streams whose evidence has reached the threshold, shape (streams,)."""
        return np.asarray(self.evidence >= self.threshold, dtype=np.bool_)

    def add(self, differences: AnyArray | float, probability: float) -> None:
        """Count one judged request of each stream.

        Args:
            differences: d of each stream, shape (streams,).
            probability: the request's probability to be judged, above 0.
        """
        gains = 1 + np.multiply.outer(self._sign * np.atleast_1d(differences), BETS)
        # A change may begin after any request, so each adds a beginning without evidence yet.
        self.by_bet = self.by_bet * gains + 1 / probability

    def restart(self, streams: BoolArray) -> None:
        """Forget the evidence of some streams; shape (streams,)."""
        self.by_bet[streams] = 0.0
