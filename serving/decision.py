"""The framework-free core of the hook: observe a request, decide, rewrite it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bundle import Bundle
from envs.carbon import CarbonReading, IntensityTrace

# Requests whose answer a machine parses: a directive could break them.
UNSAFE_FIELDS = (
    *("tools", "functions", "response_format", "structured_outputs", "guided_json"),
    *("guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema"),
    "continue_final_message",
)


@dataclass(frozen=True)
class Decision:
    """What was chosen for a request.

    Attributes:
        directive: name in the bundle's catalogue.
        probability: of that directive under the policy (1 where it had no say).
        reason: "policy", or why the request was left alone: "opt_out", "format",
            "unknown_model", "own_length".
        intensity: what the policy saw of the grid.
    """

    action: int
    directive: str
    probability: float
    reason: str
    intensity: CarbonReading


class Decider:
    """Chooses a directive for each chat request by a policy bundle.

    Args:
        now: Unix seconds of the clock that the trace is read by.
        seed: of the sampling; None draws from the operating system.
    """

    def __init__(
        self,
        bundle: Bundle,
        trace: IntensityTrace,
        now: Callable[[], float],
        seed: int | None = None,
    ) -> None:
        self.bundle = bundle
        self._trace = trace
        self._now = now
        self._rng = np.random.default_rng(seed)
        # Of the last reading, by its time: it changes once an hour.
        self._place: tuple[float, NDArray[np.float64]] | None = None

    def decide(
        self, body: Mapping[str, Any], task: str | None, in_flight: int, opt_out: bool = False
    ) -> Decision:
        """Choose for one chat-completions body.

        Raises:
            KeyError, TypeError, ValueError: the body is no chat; the caller passes it on
                untouched, for upstream to judge.
        """
        now = self._now()
        reading = self._trace.reading(now)
        reason = self._left_alone(body, opt_out)
        if reason is not None:
            return Decision(0, self.bundle.catalogue[0].name, 1.0, reason, reading)
        if self._place is None or self._place[0] != reading.time:
            self._place = reading.time, self._trace.recent_place(np.array([reading.time]))
        observation = self.bundle.featurizer.observe(
            self.bundle.featurizer.request(body["messages"], task)[None],
            *(np.array([in_flight]), np.array([reading.g_per_kwh]), self._place[1]),
            np.array([now]),
        )
        if not self.bundle.featurizer.steerable(observation)[0]:
            return Decision(0, self.bundle.catalogue[0].name, 1.0, "own_length", reading)
        chance = self.bundle.policy.probabilities(observation)[0]
        # As Generator.choice draws, without its checks: a third of the price.
        edges = chance.cumsum()
        if not edges[-1] > 0:
            raise ValueError("the policy gave no probabilities")
        edges /= edges[-1]
        action = int(edges.searchsorted(self._rng.random(), side="right"))
        name = self.bundle.catalogue[action].name
        return Decision(action, name, float(chance[action]), "policy", reading)

    def steer(self, body: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
        """The body with the decision's directive added."""
        return self.bundle.catalogue[decision.action].body(body)

    def _left_alone(self, body: Mapping[str, Any], opt_out: bool) -> str | None:
        if opt_out:
            return "opt_out"
        if body.get("model") != self.bundle.model:
            return "unknown_model"
        if not body["messages"] or any(body.get(field) for field in UNSAFE_FIELDS):
            return "format"
        return None
