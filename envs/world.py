"""The core of the environments: lanes of requests met by directives. NumPy only.

The scalar and the vector environment are two faces of this one class, so they
cannot drift apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array, StrArray
from envs.backend import Backend
from envs.carbon.intensity import HOUR_SECONDS, IntensityTrace
from envs.clock import Clock
from envs.outcomes.outcome import Outcomes
from envs.outcomes.reward import Reward
from envs.requests.features import Featurizer
from envs.requests.mix import Mix
from envs.requests.moment import Moment
from envs.requests.request import Request


def request_parts(
    featurizer: Featurizer, requests: Sequence[Request], task_tags: bool = True
) -> Float32Array:
    """The requests' own part of their observations, shape (n, features before context)."""
    return np.stack(
        [featurizer.request(r.messages, r.task if task_tags else None) for r in requests]
    )


def both_parts(featurizer: Featurizer, requests: Sequence[Request]) -> Float32Array:
    """`request_parts` without and with the task's tag, shape (2, n, features before context)."""
    return np.stack([request_parts(featurizer, requests, tags) for tags in (False, True)])


def moment_on(trace: IntensityTrace, times: Float64Array, in_flight: AnyArray) -> Moment:
    """The moments of requests sent at times (Unix seconds) of a trace."""
    return Moment(
        in_flight=in_flight,
        g_per_kwh=trace.at(times),
        recent_place=trace.recent_place(times),
        coming_place=trace.coming_place(times),
        time=times,
    )


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

    observations: Float32Array
    rewards: Float64Array
    truncated: bool
    terms: dict[str, Float64Array]
    outcomes: Outcomes
    grams: Float64Array
    intensity: Float64Array
    rows: Int64Array


class World:
    """`lanes` independent streams of requests drawn from a backend's workload.

    An episode is `episode_requests` requests a lane and starts at a random hour of
    the trace. Observations come from `featurizer`, rewards from `reward`. Each lane has
    random numbers of its own, so that lane i of many, under seed s, is the one lane of a
    world under seed s + i.

    Args:
        mix: shares of tasks by hour of the trace; default: every request equally often.
        tag_share: share of requests whose observation shows their task; training hides
            some tags, so that the policy also serves clients who send none.
        parts: what is observed of the requests themselves, as `both_parts` gives it (the
            default), where training has to see them otherwise.
    """

    def __init__(  # noqa: PLR0913, the configuration of an environment
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
        mix: Mix | None = None,
        tag_share: float = 1.0,
        parts: Float32Array | None = None,
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
        self._parts = parts if parts is not None else both_parts(featurizer, backend.requests)
        self._tag_share = tag_share
        self._draws = _Draws(self.tasks, mix)
        self._rngs = [np.random.default_rng() for _ in range(lanes)]
        self._chances = np.zeros((3, episode_requests + 1, lanes))
        self._starts = np.zeros(lanes)
        self._times = np.full(lanes, trace.start)
        self._rows = np.zeros(lanes, dtype=np.int64)
        self._tagged = np.ones(lanes, dtype=np.int64)
        self._steerable = np.ones(lanes, dtype=np.bool_)
        self._count = 0

    def reset(self, seed: int | Sequence[int | None] | None = None) -> Float32Array:
        """Begin an episode in every lane; observations of shape (lanes, n_features).

        Args:
            seed: s seeds lane i with s + i; a sequence seeds each lane; None goes on.
        """
        if seed is not None:
            seeds = [seed + i for i in range(self.lanes)] if isinstance(seed, int) else seed
            self._clock.rewind()
            for lane, own in enumerate(seeds):
                if own is not None:
                    self._rngs[lane] = np.random.default_rng(own)
        # All of an episode's random numbers at once: a lane's own, yet few calls.
        size = 3 * (self._episode_requests + 1) + 1
        drawn = np.stack([rng.random(size) for rng in self._rngs])
        hours = drawn[:, 0] * len(self.trace.g_per_kwh)
        self._chances = np.ascontiguousarray(
            drawn[:, 1:].reshape(self.lanes, 3, -1).transpose(1, 2, 0)
        )
        self._starts = hours * HOUR_SECONDS
        self._clock.restart()
        self._count = 0
        self._draw()
        return self._observe()

    def step(self, actions: Int64Array) -> Step:
        """Answer every lane's request under its directive and draw the next ones."""
        actions = np.asarray(actions, dtype=np.int64)
        if (
            actions.shape != (self.lanes,)
            or actions.min() < 0
            or actions.max() >= self.n_directives
        ):
            raise ValueError(f"actions {actions!r}: one of 0..{self.n_directives - 1} per lane")
        if self._count >= self._episode_requests:
            raise ValueError("the episode is over: reset begins the next one")
        rows = self._rows
        actions = np.where(self._steerable, actions, 0)
        intensity = self.trace.at(self._times)
        outcomes = self.backend.play(rows, actions)
        tagged = self._tagged.astype(np.bool_)
        terms = self.reward.terms(self.tasks[rows], outcomes, intensity, tagged)
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

    def action_masks(self) -> BoolArray:
        """Which directives each lane's request allows, shape (lanes, n_directives).

        Those that it forbids are played as L0. (The name is sb3-contrib's.)
        """
        masks = np.repeat(self._steerable[:, None], self.n_directives, axis=1)
        masks[:, 0] = True
        return masks

    def _draw(self) -> None:
        # An episode that runs past the trace's end goes on at its start.
        elapsed = self._starts + self._clock.elapsed_seconds()
        self._times = self.trace.start + elapsed % (self.trace.end - self.trace.start)
        of_task, of_prompt, of_tag = self._chances[:, self._count]
        self._rows = self._draws.rows(of_task, of_prompt, self.trace.hour(self._times))
        self._tagged = (of_tag < self._tag_share).astype(np.int64)

    def _observe(self) -> Float32Array:
        moment = moment_on(self.trace, self._times, self.backend.in_flight(self.lanes))
        parts = self._parts[self._tagged, self._rows]
        observations = self.featurizer.observe(parts, moment)
        self._steerable = self.featurizer.steerable(observations)
        return observations


class _Draws:
    """Turns uniform random numbers into requests, all alike or by a mix of tasks."""

    def __init__(self, tasks: StrArray, mix: Mix | None) -> None:
        names, counts = np.unique(tasks, return_counts=True)
        self._order = np.argsort(tasks, kind="stable")
        self._counts = counts
        self._firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._mix = None if mix is None else mix.aligned([str(name) for name in names])

    def rows(self, of_task: Float64Array, of_prompt: Float64Array, hours: Int64Array) -> Int64Array:
        """Requests for random numbers in 0..1 and hours of the trace, each shape (n,)."""
        if self._mix is None:
            return (of_prompt * len(self._order)).astype(np.int64)
        edges = np.cumsum(self._mix.at(hours), axis=1)
        edges /= edges[:, -1:]
        task = (of_task[:, None] >= edges).sum(axis=1)
        place = (of_prompt * self._counts[task]).astype(np.int64)
        drawn: Int64Array = self._order[self._firsts[task] + place]
        return drawn
