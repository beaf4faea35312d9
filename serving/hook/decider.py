"""What a loaded policy bundle makes of one request."""

from collections.abc import Sequence

import numpy as np

from agents.policy.bundle import Bundle
from envs.arrays import Float32Array
from envs.requests.directive import Message
from envs.requests.features import CONTEXT
from envs.requests.projection import EncodedProjection
from serving.hook.grid import Seen

Observation = Float32Array


class Decider:
    """Observes a request and gives each directive's probability under the policy."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        floors = bundle.manifest.get("floors")
        self._floors = dict(floors) if isinstance(floors, dict) else {}
        self._seen: Seen | None = None
        self._context = np.zeros((1, 0), dtype=np.float32)
        self._most_load = CONTEXT[0].high
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
        load = np.array([in_flight])
        if seen is not self._seen:
            # One for all requests that see the same grid.
            grid = seen.g_per_kwh, seen.place, seen.coming, seen.time
            context = featurizer.context(load, *grid)
            self._seen, self._context = seen, context
        context = self._context.copy()
        context[0, 0] = min(in_flight, self._most_load)
        return featurizer.joined(part, context, seen.g_per_kwh)

    def steerable(self, observation: Observation) -> bool:
        """Whether the request leaves the length of its answer to us."""
        return bool(self.bundle.featurizer.steerable(observation)[0])

    def chances(
        self, observation: Observation, task: str | None = None, floor: float | None = None
    ) -> list[float]:
        """Probability of each directive.

        Args:
            floor: quality demanded, relative to L0's; where it is above the one that the
                policy was trained to keep, L0 is mixed in until their mean keeps it: a
                mean quality of 1 with weight w and of f with 1 - w is w + (1 - w) f.

        Raises:
            ValueError: the policy gave no probabilities.
        """
        chances = self.bundle.policy.probabilities_of(observation[0])
        if not sum(chances) > 0:
            raise ValueError("the policy gave no probabilities")
        if floor is not None and floor > (kept := self.kept_floor(task)):
            weight = (floor - kept) / (1 - kept)
            chances = [(1 - weight) * chance for chance in chances]
            chances[0] += weight
        return chances

    def kept_floor(self, task: str | None) -> float:
        """The floor that the policy was trained to keep: the task's, else the lowest of all."""
        if task in self._floors:
            return float(self._floors[task])
        return float(min(self._floors.values(), default=0.0))


def draw(chances: Sequence[float], uniform: float) -> int:
    """The directive that a number uniform in [0, 1) falls on; never one without probability."""
    edge, last = 0.0, 0
    for action, chance in enumerate(chances):
        if chance > 0:
            edge, last = edge + chance, action
            if uniform < edge:
                break
    return last
