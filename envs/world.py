"""The core of the environments: lanes of requests met by directives. NumPy only.

The scalar and the vector environment are two faces of this one class, so they
cannot drift apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.backend import Backend
from envs.carbon import HOUR_SECONDS, IntensityTrace
from envs.clock import Clock
from envs.features import Array, Featurizer
from envs.outcome import Floats, Outcomes
from envs.request import Request
from envs.reward import Reward


def request_parts(
    featurizer: Featurizer, requests: Sequence[Request], task_tags: bool = True
) -> Array:
    """The requests' own part of their observations, shape (n, features before context)."""
    return np.stack(
        [featurizer.request(r.messages, r.task if task_tags else None) for r in requests]
    )


def observe(
    featurizer: Featurizer,
    parts: Array,
    trace: IntensityTrace,
    times: Floats,
    in_flight: NDArray[Any],
) -> Array:
    """Observations of requests (by their parts) at times (Unix s), shape (n, n_features)."""
    place, intensity = trace.recent_place(times), trace.at(times)
    context = featurizer.context(in_flight, intensity, place, times)
    return np.concatenate([parts, context], axis=1)


@dataclass(frozen=True)
class Step:
    """What one step of all lanes gave; arrays of shape (lanes,) unless said.

    Attributes:
        observations: of the next requests, shape (lanes, n_features).
        rewards: sum of `terms`.
        truncated: the episode's last request has been answered.
        terms: named addends of the reward.
        outcomes: what the requests cost and were worth.
        grams: their footprint, gCO2e.
        intensity: gCO2e/kWh when they were sent.
        rows: which requests they were.
    """

    observations: Array
    rewards: Floats
    truncated: bool
    terms: dict[str, Floats]
    outcomes: Outcomes
    grams: Floats
    intensity: Floats
    rows: NDArray[np.int64]


class World:
    """`lanes` independent streams of requests drawn from a backend's workload.

    An episode is `episode_requests` requests a lane and starts at a random hour of
    the trace. Observations come from `featurizer`, rewards from `reward`.

    Args:
        tag_share: share of requests whose observation shows their task; training hides
            some tags, so that the policy also serves clients who send none.
    """

    def __init__(
        self,
        backend: Backend,
        featurizer: Featurizer,
        trace: IntensityTrace,
        reward: Reward,
        clock: Clock,
        *,
        n_directives: int,
        lanes: int = 1,
        episode_requests: int = 64,
        tag_share: float = 1.0,
    ) -> None:
        self.backend = backend
        self.featurizer = featurizer
        self.trace = trace
        self.reward = reward
        self.lanes = lanes
        self.n_directives = n_directives
        self._clock = clock
        self._episode_requests = episode_requests
        self.tasks = np.array([request.task for request in backend.requests])
        self._parts = np.stack(
            [request_parts(featurizer, backend.requests, tags) for tags in (False, True)]
        )
        self._tag_share = tag_share
        self._rng = np.random.default_rng()
        self._starts = np.full(lanes, trace.start)
        self._rows = np.zeros(lanes, dtype=np.int64)
        self._tagged = np.ones(lanes, dtype=np.int64)
        self._count = 0

    def reset(self, seed: int | None = None) -> Array:
        """Begin an episode in every lane; observations of shape (lanes, n_features)."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        hours = self._rng.uniform(0, len(self.trace.g_per_kwh), self.lanes)
        self._starts = self.trace.start + hours * HOUR_SECONDS
        self._clock.restart()
        self._count = 0
        self._draw()
        return self._observe()

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Answer every lane's request under its directive and draw the next ones."""
        actions = np.asarray(actions, dtype=np.int64)
        if (
            actions.shape != (self.lanes,)
            or actions.min() < 0
            or actions.max() >= self.n_directives
        ):
            raise ValueError(f"actions {actions!r}: one of 0..{self.n_directives - 1} per lane")
        rows = self._rows
        intensity = self.trace.at(self._times())
        outcomes = self.backend.play(rows, actions)
        terms = self.reward.terms(self.tasks[rows], outcomes, intensity)
        self._clock.advance()
        self._count += 1
        self._draw()
        return Step(
            observations=self._observe(),
            rewards=np.sum(list(terms.values()), axis=0),
            truncated=self._count >= self._episode_requests,
            terms=terms,
            outcomes=outcomes,
            grams=self.reward.grams(outcomes, intensity),
            intensity=intensity,
            rows=rows,
        )

    def _times(self) -> Floats:
        # An episode that runs past the trace's end goes on at its start.
        elapsed = self._starts - self.trace.start + self._clock.elapsed_seconds()
        return self.trace.start + elapsed % (self.trace.end - self.trace.start)

    def _draw(self) -> None:
        self._rows = self._rng.integers(0, len(self.backend.requests), self.lanes)
        self._tagged = (self._rng.random(self.lanes) < self._tag_share).astype(np.int64)

    def _observe(self) -> Array:
        return observe(
            self.featurizer,
            self._parts[self._tagged, self._rows],
            self.trace,
            self._times(),
            self.backend.in_flight(self.lanes),
        )
