"""A loaded policy bundle that decides single requests."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agents.policy.bundle import Bundle
from envs.arrays import Float32Array
from envs.requests.directive import Message
from envs.requests.features import CONTEXT
from envs.requests.projection import EncodedProjection
from serving.hook.grid import GridState
from serving.ledger.estimate import manifest_rates


class DecisionInput(NamedTuple):
    """The input of one decision.

    Attributes:
        messages: the request's content as chat messages.
        task: the request's task tag; None if the caller sent none.
        in_flight: number of other requests at the server.
        floor: least quality, relative to L0 (no directive), that the caller or a rule demands;
            None if neither does.
        grid: the carbon intensity now.
    """

    messages: Sequence[Message]
    task: str | None
    in_flight: int
    floor: float | None
    grid: GridState


class Decision(NamedTuple):
    """The output of one decision.

    Attributes:
        observation: the policy's input, shape (n_features,).
        steerable: False if the request itself states how long its answer must be.
        probabilities: probability of each directive.
    """

    observation: Float32Array
    steerable: bool
    probabilities: list[float]


class Decider:
    """Gives each directive's probability under the policy of one bundle.

    Attributes:
        bundle: the bundle.
        rates: energy of the model's requests; None if unknown.
        slow: whether a decision takes milliseconds.

    Args:
        bundle: the bundle.
        explore: least probability of each directive, as a share that is spread evenly over all.

    Raises:
        DataError, UnitError: the bundle's energy rates are wrong.
    """

    def __init__(self, bundle: Bundle, explore: float = 0.0) -> None:
        self.bundle = bundle
        self._explore = explore
        floors = bundle.manifest.get("floors")
        self._floors = dict(floors) if isinstance(floors, dict) else {}
        self._grid: GridState | None = None
        self._context = np.zeros(0, dtype=np.float32)
        self._g_per_kwh = 0.0
        self._most_load = CONTEXT[0].high
        self.rates = manifest_rates(bundle.manifest)
        # Text encoders take milliseconds.
        self.slow = isinstance(bundle.featurizer.text, EncodedProjection)

    def decide(self, question: DecisionInput) -> Decision:
        """Decide one request.

        Raises:
            KeyError, TypeError, ValueError: the messages are not a chat, or the policy gave no
                probabilities.
        """
        observation = self._observe(question)
        return Decision(
            observation,
            bool(self.bundle.featurizer.steerable(observation)),
            self._probabilities(observation, question.task, question.floor),
        )

    def _observe(self, question: DecisionInput) -> Float32Array:
        featurizer, grid = self.bundle.featurizer, question.grid
        part = featurizer.request(question.messages, question.task)
        if grid is not self._grid:
            # Computed once for all requests with the same grid state.
            self._grid, self._context = grid, featurizer.context(grid.moment)[0]
            self._g_per_kwh = float(grid.moment.g_per_kwh[0])
        observation = featurizer.join_one(part, self._context, self._g_per_kwh)
        observation[featurizer.load] = min(question.in_flight, self._most_load)
        return observation

    def _probabilities(
        self, observation: Float32Array, task: str | None, floor: float | None
    ) -> list[float]:
        """Probability of each directive.

        If `floor` is above the floor f that the policy was trained to keep, the policy is mixed
        with L0 until the mean quality reaches `floor`. With weight w on L0 (quality 1) and
        1 - w on the policy (quality f), the mean is w + (1 - w) f.
        """
        probabilities = self.bundle.policy.probabilities_of(observation)
        if not sum(probabilities) > 0:
            raise ValueError("the policy gave no probabilities")
        if floor is not None and floor > (kept := self.kept_floor(task)):
            weight = (floor - kept) / (1 - kept)
            probabilities = [(1 - weight) * p for p in probabilities]
            probabilities[0] += weight
        elif self._explore:
            # Not with a floor that a caller or a rule demands.
            share = self._explore / len(probabilities)
            probabilities = [(1 - self._explore) * p + share for p in probabilities]
        return probabilities

    def kept_floor(self, task: str | None) -> float:
        """Return the floor that the policy was trained to keep: the task's own, else the lowest."""
        if task in self._floors:
            return float(self._floors[task])
        return float(min(self._floors.values(), default=0.0))


def draw(probabilities: Sequence[float], uniform: float) -> int:
    """Sample a directive by inverse transform; never one of probability 0.

    Args:
        uniform: a number uniform in [0, 1).
    """
    cumulated, last = 0.0, 0
    for action, probability in enumerate(probabilities):
        if probability > 0:
            cumulated, last = cumulated + probability, action
            if uniform < cumulated:
                break
    return last
