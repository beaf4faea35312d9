"""A loaded policy bundle that decides single requests."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agents.policy.bundle import Bundle
from agents.policy.novelty import inputs_of
from agents.policy.pricing import Floor, Floors, Pricing
from envs.arrays import Float32Array
from envs.requests.directive import Message
from envs.requests.features import CONTEXT
from envs.requests.projection import EncodedProjection
from envs.requests.structure import Reading, read_chat
from serving.apis.api import opening
from serving.hook.grid import GridState
from serving.ledger.estimate import manifest_rates


class DecisionInput(NamedTuple):
    """The input of one decision.

    Attributes:
        messages: the request's content as chat messages.
        task: the request's task tag; None if the caller sent none.
        in_flight: number of other requests at the server.
        floors: floors in force.
        grid: the carbon intensity now.
        demanded: whether a rule or the caller asks for a floor, so that nothing is explored.
    """

    messages: Sequence[Message]
    task: str | None
    in_flight: int
    floors: Floors
    grid: GridState
    demanded: bool = False


class Decision(NamedTuple):
    """The output of one decision.

    Attributes:
        observation: the policy's input, shape (n_features,).
        steerable: False if the request itself states how long its answer must be.
        probabilities: probability of each directive.
        price: price of quality that the policy observed, in mean L0 costs per unit of L0's
            quality; None if it observes no prices.
        floor: the floor that the price is for; None if the request's task has none.
        unlike: whether the request's opening is unlike all that the policy was trained on.
    """

    observation: Float32Array
    steerable: bool
    probabilities: list[float]
    price: float | None
    floor: Floor | None
    unlike: bool = False


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
        self._pricing: dict[str, Pricing] = {}
        self._grid: GridState | None = None
        self._context = np.zeros(0, dtype=np.float32)
        self._g_per_kwh = 0.0
        self._most_load = CONTEXT[0].high
        featurizer = bundle.featurizer
        lowest, highest = featurizer.low[featurizer.prices], featurizer.high[featurizer.prices]
        self._price_bounds = list(zip(lowest.tolist(), highest.tolist(), strict=True))
        self.rates = manifest_rates(bundle.manifest)
        # Text encoders take milliseconds.
        self.slow = isinstance(bundle.featurizer.text, EncodedProjection)

    def decide(self, question: DecisionInput) -> Decision:
        """Decide one request.

        Raises:
            KeyError, TypeError, ValueError: the messages are not a chat, or the policy gave no
                probabilities.
        """
        featurizer, grid = self.bundle.featurizer, question.grid
        reading = read_chat(question.messages)
        part = featurizer.part(reading, question.task)
        if grid is not self._grid:
            # Computed once for all requests with the same grid state.
            self._grid, self._context = grid, featurizer.context(grid.moment)[0]
            self._g_per_kwh = float(grid.moment.g_per_kwh[0])
        observation = featurizer.join_one(part, self._context, self._g_per_kwh)
        observation[featurizer.load] = min(question.in_flight, self._most_load)
        pricing = self.pricing(grid.reading.zone)
        point, floor = pricing.point(question.task, part, self._g_per_kwh, question.floors)
        observation[featurizer.prices] = [
            min(max(price, low), high)
            for price, (low, high) in zip(point[:2], self._price_bounds, strict=True)
        ]
        return Decision(
            observation,
            bool(featurizer.steerable(observation)),
            self._probabilities(observation, point.l0_share, explored=not question.demanded),
            math.exp(point.log_price) if pricing.front is not None or pricing.fixed else None,
            floor,
            self._unlike(question, reading, part),
        )

    def _unlike(self, question: DecisionInput, reading: Reading, part: Float32Array) -> bool:
        """Return whether the conversation's opening is unlike the training."""
        novelty = self.bundle.novelty
        if novelty is None:
            return False
        first = opening(question.messages)
        if len(first) < len(question.messages):
            reading = read_chat(first)
            part = self.bundle.featurizer.part(reading, question.task)
        return novelty.unlike(inputs_of(self.bundle.featurizer, part, reading.words))

    def pricing(self, zone: str) -> Pricing:
        """Return the prices for requests in a zone."""
        if zone not in self._pricing:
            self._pricing[zone] = self.bundle.pricing(zone)
        return self._pricing[zone]

    def _probabilities(
        self, observation: Float32Array, l0_share: float, *, explored: bool
    ) -> list[float]:
        """Return the probability of each directive.

        Args:
            l0_share: share of requests that must be left at L0, because the policy alone does not
                reach the floor. With weight w on L0 (quality 1) and 1 - w on the policy (quality
                f), the mean is w + (1 - w) f.
            explored: whether a share is spread evenly over all directives.
        """
        probabilities = self.bundle.policy.probabilities_of(observation)
        if not sum(probabilities) > 0:
            raise ValueError("the policy gave no probabilities")
        if l0_share:
            probabilities = [(1 - l0_share) * p for p in probabilities]
            probabilities[0] += l0_share
        if self._explore and explored:
            share = self._explore / len(probabilities)
            probabilities = [(1 - self._explore) * p + share for p in probabilities]
        return probabilities


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
