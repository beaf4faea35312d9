"""What a loaded policy bundle makes of one request."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.bundle import Bundle
from envs.directive import Message
from envs.projection import EncodedProjection
from serving.grid import Seen

Observation = NDArray[np.float32]
Chances = NDArray[np.float64]


class Decider:
    """Observes a request and gives each directive's probability under the policy."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        floors = bundle.manifest.get("floors")
        self._floors = dict(floors) if isinstance(floors, dict) else {}
        # Text encoders take milliseconds.
        self.slow = isinstance(bundle.featurizer.text, EncodedProjection)

    def observe(
        self, messages: Sequence[Message], task: str | None, in_flight: int, seen: Seen
    ) -> Observation:
        """What the policy sees, shape (1, n_features).

        Raises:
            KeyError, TypeError, ValueError: the messages are no chat.
        """
        featurizer = self.bundle.featurizer
        part = featurizer.request(messages, task)[None]
        return featurizer.observe(
            part, np.array([in_flight]), seen.g_per_kwh, seen.place, seen.time
        )

    def steerable(self, observation: Observation) -> bool:
        """Whether the request leaves the length of its answer to us."""
        return bool(self.bundle.featurizer.steerable(observation)[0])

    def chances(
        self, observation: Observation, task: str | None = None, floor: float | None = None
    ) -> Chances:
        """Probability of each directive, shape (n_directives,).

        Args:
            floor: quality demanded, relative to L0's; where it is above the one that the
                policy was trained to keep, L0 is mixed in until their mean keeps it: a
                mean quality of 1 with weight w and of f with 1 - w is w + (1 - w) f.

        Raises:
            ValueError: the policy gave no probabilities.
        """
        chance = self.bundle.policy.probabilities(observation)[0]
        total = chance.sum()
        if not total > 0:
            raise ValueError("the policy gave no probabilities")
        chance = chance / total
        if floor is None:
            return chance
        kept = self.kept_floor(task)
        if floor > kept:
            weight = (floor - kept) / (1 - kept)
            chance *= 1 - weight
            chance[0] += weight
        return chance

    def kept_floor(self, task: str | None) -> float:
        """The floor that the policy was trained to keep: the task's, else the lowest of all."""
        if task in self._floors:
            return float(self._floors[task])
        return float(min(self._floors.values(), default=0.0))


def draw(chances: Chances, uniform: float) -> int:
    """The directive that a number uniform in [0, 1) falls on."""
    # As Generator.choice draws, without its checks: a third of the price.
    edges = chances.cumsum()
    return min(int(edges.searchsorted(uniform * edges[-1], side="right")), len(chances) - 1)
