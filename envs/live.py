"""Live: outcomes from a real server, metered and scored."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.arrays import AnyArray, Int64Array
from envs.backend import Backend
from envs.energy.meter import Meter, Window, attributed_method, split_by_tokens
from envs.outcomes.outcome import Outcomes, concatenate_outcomes
from envs.requests.directive import Catalogue
from envs.requests.quality import correctness
from envs.requests.request import Request
from envs.upstream import Upstream

DEFAULT_MAX_TOKENS = 192


class LiveBackend:
    """Sends requests to a live server, all of a call at once, and meters the call as one window.

    The window's joules are split by tokens (`envs.energy.meter.split_by_tokens`), so requests
    that run beside each other share what the server spent.
    """

    def __init__(
        self,
        upstream: Upstream,
        meter: Meter,
        catalogue: Catalogue,
        requests: Sequence[Request],
        max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> None:
        self._upstream = upstream
        self._meter = meter
        self._catalogue = catalogue
        self._requests = tuple(requests)
        self._max_tokens = max_tokens

    @property
    def requests(self) -> tuple[Request, ...]:
        """The workload."""
        return self._requests

    def in_flight(self, lanes: int) -> AnyArray:
        """0, 1, 2 ...: the requests of a call are sent one after another without waiting."""
        return np.arange(lanes)

    def play(self, rows: AnyArray, actions: AnyArray) -> Outcomes:
        """Send, wait for all, meter and score.

        Raises:
            UpstreamError: the server failed.
            MeterError: the meter failed or did not move.
        """
        requests = [self._requests[int(row)] for row in rows]
        bodies = [
            self._catalogue[int(action)].body(
                {"messages": request.messages, "max_tokens": self._max_tokens}
            )
            for request, action in zip(requests, actions, strict=True)
        ]
        window = Window(self._meter)
        answers = self._upstream.chat(bodies)
        energy = window.close()
        prompt = np.array([a.prompt_tokens for a in answers], dtype=np.float64)
        completion = np.array([a.completion_tokens for a in answers], dtype=np.float64)
        scores = [
            correctness(request.task, answer.text, request.reference)
            for request, answer in zip(requests, answers, strict=True)
        ]
        return Outcomes(
            prompt_tokens=prompt,
            completion_tokens=completion,
            energy_joules=split_by_tokens(energy.joules, prompt, completion),
            latency_seconds=np.array([a.latency_seconds for a in answers]),
            device_seconds=split_by_tokens(energy.seconds, prompt, completion),
            correct=np.array(scores, dtype=np.float64),
            preference=np.full(len(answers), np.nan),
            energy_method=attributed_method(energy.method),
            responses=tuple(a.text for a in answers),
        )

    def conditions(self) -> dict[str, Any]:
        """What a recording must have in common to be one: meter and cap on tokens."""
        return {"meter": self._meter.source, "max_tokens": self._max_tokens}

    def close(self) -> None:
        """Close the client."""
        self._upstream.close()


class Recording:
    """A backend that keeps what was played on another."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._rows: list[AnyArray] = []
        self._actions: list[AnyArray] = []
        self._outcomes: list[Outcomes] = []

    @property
    def requests(self) -> tuple[Request, ...]:
        """The other's."""
        return self._backend.requests

    def in_flight(self, lanes: int) -> AnyArray:
        """The other's."""
        return self._backend.in_flight(lanes)

    def play(self, rows: AnyArray, actions: AnyArray) -> Outcomes:
        """Play and keep."""
        outcomes = self._backend.play(rows, actions)
        self._rows.append(rows)
        self._actions.append(actions)
        self._outcomes.append(outcomes)
        return outcomes

    def played(self) -> tuple[list[Request], Int64Array, Outcomes]:
        """Requests, directives and outcomes so far, one of each a request.

        Raises:
            ValueError: nothing has been played.
        """
        rows, actions = np.concatenate(self._rows), np.concatenate(self._actions)
        return [self.requests[row] for row in rows], actions, concatenate_outcomes(self._outcomes)

    def close(self) -> None:
        """Close the other."""
        self._backend.close()
