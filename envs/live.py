"""Live: outcomes from a real server, metered and scored."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.arrays import AnyArray, Float64Array, Int64Array
from envs.backend import Backend
from envs.energy.carry import CarriedWindows
from envs.energy.meter import Meter, attributed_method, split_by_tokens, token_work
from envs.outcomes.outcome import Outcomes, concatenate_outcomes
from envs.requests.directive import Catalogue
from envs.requests.quality import correctness
from envs.requests.request import Request
from envs.upstream import Generation, Upstream

DEFAULT_MAX_TOKENS = 192


class LiveBackend:
    """Sends requests to a live server, all of a call at once, and meters the call as one window.

    The window's joules are split by tokens (`envs.energy.meter.split_by_tokens`), so requests
    that run beside each other share what the server spent. A call that ends before the meter
    ticks is carried into the next window (`envs.energy.carry`).
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
        self._windows = CarriedWindows(meter)
        self._waiting: list[_Call] = []
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

        Where the meter did not tick meanwhile, energy is estimated by the joules a token of its
        windows so far. Before its first window the requests are sent again until it has ticked.

        Raises:
            UpstreamError: the server failed.
            MeterError: the meter failed, or stood still for clearly longer than its tick.
        """
        while not (outcomes := self.carry(rows, actions)):
            if (rate := self._windows.known) is not None:
                # Given out now, its work stays in the window that goes on.
                return self._waiting.pop().outcomes(rate, "estimated")
        return outcomes[-1]

    def carry(self, rows: AnyArray, actions: AnyArray) -> list[Outcomes]:
        """As `play`, but what the meter did not see waits for it: nothing is estimated.

        Returns:
            Outcomes of the calls that waited and of this one, the oldest first, at their shares
            of one window; none where this one waits too.

        Raises:
            UpstreamError, MeterError: as `play`; what waited is lost.
        """
        try:
            self._windows.begin()
            call = self._send(rows, actions)
            self._waiting.append(call)
            rate = self._windows.end(float(call.work.sum()))
        except BaseException:
            # What the server did for a call that failed must not be billed to others.
            self._waiting.clear()
            self._windows.drop()
            raise
        if rate is None:
            return []
        method = attributed_method(self._windows.meter.method)
        outcomes = [call.outcomes(rate, method) for call in self._waiting]
        self._waiting.clear()
        return outcomes

    def _send(self, rows: AnyArray, actions: AnyArray) -> "_Call":
        requests = [self._requests[int(row)] for row in rows]
        bodies = [
            self._catalogue[int(action)].body(
                {"messages": request.messages, "max_tokens": self._max_tokens}
            )
            for request, action in zip(requests, actions, strict=True)
        ]
        started = time.monotonic()
        answers = self._upstream.chat(bodies)
        return _Call(requests, answers, time.monotonic() - started)

    def conditions(self) -> dict[str, Any]:
        """What a recording must have in common to be one: meter and cap on tokens."""
        return {"meter": self._windows.meter.source, "max_tokens": self._max_tokens}

    def close(self) -> None:
        """Close the client."""
        self._upstream.close()


@dataclass(frozen=True)
class _Call:
    """Requests that were sent at once, their answers, and the s until the last of them."""

    requests: list[Request]
    answers: list[Generation]
    seconds: float

    @property
    def prompt(self) -> Float64Array:
        return np.array([a.prompt_tokens for a in self.answers], dtype=np.float64)

    @property
    def completion(self) -> Float64Array:
        return np.array([a.completion_tokens for a in self.answers], dtype=np.float64)

    @property
    def work(self) -> Float64Array:
        return token_work(self.prompt, self.completion)

    def outcomes(self, joules_per_work: float, method: str) -> Outcomes:
        """What it cost at so many J a unit of work, scored."""
        scores = [
            correctness(request.task, answer.text, request.reference)
            for request, answer in zip(self.requests, self.answers, strict=True)
        ]
        return Outcomes(
            prompt_tokens=self.prompt,
            completion_tokens=self.completion,
            energy_joules=joules_per_work * self.work,
            latency_seconds=np.array([a.latency_seconds for a in self.answers]),
            device_seconds=split_by_tokens(self.seconds, self.prompt, self.completion),
            correct=np.array(scores, dtype=np.float64),
            preference=np.full(len(self.answers), np.nan),
            energy_method=method,
            responses=tuple(a.text for a in self.answers),
        )


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
