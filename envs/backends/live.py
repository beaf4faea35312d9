"""The live backend: outcomes from a real server, metered and scored."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.arrays import AnyArray, Float64Array, Int64Array
from envs.backends.backend import Backend
from envs.energy.carry import CarriedWindows
from envs.energy.meter import Meter, attributed_method, split_by_tokens, token_work
from envs.outcomes.outcome import Outcomes, concatenate_outcomes
from envs.requests.directive import Catalogue
from envs.requests.quality import correctness
from envs.requests.request import Request
from envs.upstream import Generation, Upstream

DEFAULT_MAX_TOKENS = 192


class LiveBackend:
    """Sends the requests of each call to a live server together, and meters them as one window.

    The window's joules are split among its requests by tokens
    (`envs.energy.meter.split_by_tokens`), so concurrent requests share the server's energy. If
    a call ends before the meter ticks, its work is carried into the next window
    (`envs.energy.carry`).
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
        self._unmetered: list[_Call] = []
        self._catalogue = catalogue
        self._requests = tuple(requests)
        self._max_tokens = max_tokens

    @property
    def requests(self) -> tuple[Request, ...]:
        """The workload."""
        return self._requests

    @property
    def answered_by(self) -> tuple[str | None, str | None]:
        """Model and `system_fingerprint` that the last answer named; None if it did not."""
        return self._upstream.answered_by

    def in_flight(self, lanes: int) -> AnyArray:
        """Return 0, 1, 2, ...: a call sends its requests one after another without waiting."""
        return np.arange(lanes)

    def play(self, rows: AnyArray, actions: AnyArray) -> Outcomes:
        """Send the requests, wait for all answers, and return their metered, scored outcomes.

        If the meter did not tick during the call, energy is estimated from the J per unit of
        work of all windows so far. Before the first complete window, the requests are sent
        again until the meter has ticked.

        Raises:
            UpstreamError: the server failed.
            MeterError: the meter failed, or its counter stood still much longer than its tick.
        """
        while not (outcomes := self.carry(rows, actions)):
            if (rate := self._windows.known) is not None:
                # Return the call now; its work still counts in the window, which stays open.
                return self._unmetered.pop().outcomes(rate, "estimated")
        return outcomes[-1]

    def carry(self, rows: AnyArray, actions: AnyArray) -> list[Outcomes]:
        """Send the requests as `play` does, but wait for the meter instead of estimating.

        Returns:
            Outcomes of each call since the meter last ticked, oldest first, with one window's
            joules split among them. Empty if the meter has not ticked during this call either:
            a later call then returns its outcomes.

        Raises:
            UpstreamError, MeterError: as for `play`; the outcomes of waiting calls are lost.
        """
        try:
            self._windows.begin()
            call = self._send(rows, actions)
            self._unmetered.append(call)
            rate = self._windows.end(float(call.work.sum()))
        except BaseException:
            # The server's work for a failed call must not be billed to other calls.
            self._unmetered.clear()
            self._windows.drop()
            raise
        if rate is None:
            return []
        method = attributed_method(self._windows.meter.method)
        outcomes = [call.outcomes(rate, method) for call in self._unmetered]
        self._unmetered.clear()
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
        """Return the conditions that all parts of one recording must share."""
        return {"meter": self._windows.meter.source, "max_tokens": self._max_tokens}

    def close(self) -> None:
        """Close the client."""
        self._upstream.close()


@dataclass(frozen=True)
class _Call:
    """Requests that were sent together, and their answers.

    Attributes:
        seconds: s from sending the requests to the end of the last answer.
    """

    requests: list[Request]
    answers: list[Generation]
    seconds: float

    @property
    def prompt(self) -> Float64Array:
        """Prompt tokens of each request, shape (n,)."""
        return np.array([a.prompt_tokens for a in self.answers], dtype=np.float64)

    @property
    def completion(self) -> Float64Array:
        """Generated tokens of each request, shape (n,)."""
        return np.array([a.completion_tokens for a in self.answers], dtype=np.float64)

    @property
    def work(self) -> Float64Array:
        """Work of each request, in generated tokens, shape (n,)."""
        return token_work(self.prompt, self.completion)

    def outcomes(self, joules_per_work: float, method: str) -> Outcomes:
        """Return the scored outcomes, with energy from the work and `joules_per_work`."""
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
    """A backend that forwards to another backend and records everything it plays."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._rows: list[AnyArray] = []
        self._actions: list[AnyArray] = []
        self._outcomes: list[Outcomes] = []

    @property
    def requests(self) -> tuple[Request, ...]:
        """The recorded backend's workload."""
        return self._backend.requests

    def in_flight(self, lanes: int) -> AnyArray:
        """Return the recorded backend's number of requests in flight per lane."""
        return self._backend.in_flight(lanes)

    def play(self, rows: AnyArray, actions: AnyArray) -> Outcomes:
        """Play the requests on the recorded backend, and record and return their outcomes."""
        outcomes = self._backend.play(rows, actions)
        self._rows.append(rows)
        self._actions.append(actions)
        self._outcomes.append(outcomes)
        return outcomes

    def played(self) -> tuple[list[Request], Int64Array, Outcomes]:
        """Return the requests, directive indices and outcomes so far, one entry per request.

        Raises:
            ValueError: nothing has been played.
        """
        rows, actions = np.concatenate(self._rows), np.concatenate(self._actions)
        return [self.requests[row] for row in rows], actions, concatenate_outcomes(self._outcomes)

    def close(self) -> None:
        """Close the recorded backend."""
        self._backend.close()
