"""The core of the environments: lanes of requests, answered under directives. NumPy only.

The scalar and the vector environment both wrap this one class, so their behaviour cannot
drift apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from envs.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array
from envs.backends.backend import Backend
from envs.carbon.intensity import IntensityTrace
from envs.clock import Clock
from envs.outcomes.outcome import Outcomes
from envs.outcomes.prices import Prices, draw_prices
from envs.outcomes.reward import Reward
from envs.requests.draws import Draws
from envs.requests.features import Featurizer
from envs.requests.mix import Mix
from envs.requests.moment import Moment
from envs.requests.request import Request

# Requests per lane in an episode.
MAX_EPISODE_STEPS = 64
# Requests for which each lane draws its random numbers in one call, for speed.
DRAWN_TOGETHER = MAX_EPISODE_STEPS + 1


def request_parts(
    featurizer: Featurizer, requests: Sequence[Request], task_tags: bool = True
) -> Float32Array:
    """Return the part of each observation that depends only on the request, not on the context.

    The shape is (n, features before context). Task tags are 0 unless `task_tags` is true.
    """
    return np.stack(
        [featurizer.request(r.messages, r.task if task_tags else None) for r in requests]
    )


def parts_by_tag(featurizer: Featurizer, requests: Sequence[Request]) -> Float32Array:
    """Return `request_parts` without and with task tags, (2, n, features before context)."""
    return np.stack([request_parts(featurizer, requests, tags) for tags in (False, True)])


def moment_on(trace: IntensityTrace, times: Float64Array, in_flight: AnyArray) -> Moment:
    """Return the context of n requests, with carbon intensity from a trace.

    Args:
        times: when the requests are sent, Unix seconds, shape (n,).
        in_flight: other requests at the server, shape (n,).
    """
    return Moment(
        in_flight=in_flight,
        g_per_kwh=trace.at(times),
        recent_place=trace.recent_place(times),
        coming_place=trace.coming_place(times),
        time=times,
    )


@dataclass(frozen=True)
class Step:
    """Results of one step of all lanes. Arrays have shape (lanes,) unless noted otherwise.

    Attributes:
        observations: observations of the next requests, shape (lanes, n_features).
        rewards: sum of `terms`, or only the footprint's.
        truncated: True if the episode's last request has been answered.
        terms: the reward's addends by name.
        outcomes: costs and qualities of the answered requests.
        grams: footprint of the answered requests, gCO2e.
        intensity: carbon intensity when these requests were sent, gCO2e/kWh.
        rows: index of each answered request in the backend's workload.
        actions: directive that each request was answered under; 0 where its choice had no effect.
        costs: cost of each constraint, by name (`Reward.costs`).
        tagged: whether the observations showed the requests' task tags.
    """

    observations: Float32Array
    rewards: Float64Array
    truncated: bool
    terms: dict[str, Float64Array]
    outcomes: Outcomes
    grams: Float64Array
    intensity: Float64Array
    rows: Int64Array
    actions: Int64Array
    costs: dict[str, Float64Array]
    tagged: BoolArray


class World:
    """`lanes` independent streams of requests drawn from a backend's workload.

    An episode starts at a random hour of the trace. Observations come from `featurizer`, rewards
    from `reward`. Each lane has its own random numbers: lane i of a world with seed s behaves
    like the only lane of a world with seed s + i.

    Args:
        max_episode_steps: requests per lane after which an episode is truncated; None if the
            caller ends episodes, as Gymnasium's `TimeLimit` does.
        mix: shares of tasks by hour of the trace; None to draw every request equally often.
        tag_share: share of requests whose observation shows their task, 0..1; training hides
            some tags, so that the policy also works for clients that send none.
        parts: the requests' part of the observations, in the shape of `parts_by_tag`; None to
            use `parts_by_tag`. Training passes its own for cross-fitted predictions.
        penalised: whether rewards include the penalties for quality and latency, besides the
            footprint.
        hidden: indices of the features that observations show as 0.
        price_range: lowest and highest price of quality, of which each lane draws one for each
            episode (log-uniform), and a price of latency if the reward has limits
            (`envs.outcomes.prices`). None for the reward's own prices.
        shows_prices: whether observations show the prices; always if they are drawn.
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
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
        mix: Mix | None = None,
        tag_share: float = 1.0,
        parts: Float32Array | None = None,
        penalised: bool = True,
        hidden: Sequence[int] = (),
        price_range: tuple[float, float] | None = None,
        shows_prices: bool = False,
    ) -> None:
        self.backend = backend
        self.featurizer = featurizer
        self.trace = trace
        self.reward = reward
        self.lanes = lanes
        self.n_directives = n_directives
        self._clock = clock
        self._max_episode_steps = max_episode_steps
        self.tasks = np.array([request.task for request in backend.requests])
        self._parts = parts if parts is not None else parts_by_tag(featurizer, backend.requests)
        self._tag_share = tag_share
        self._penalised = penalised
        self._hidden = list(hidden)
        self._price_range = price_range
        self._drawn: Prices | None = None
        self._shows_prices = shows_prices or price_range is not None
        self._draws = Draws(self.tasks, mix)
        self._rngs = [np.random.default_rng() for _ in range(lanes)]
        self._chances = np.zeros((3, DRAWN_TOGETHER, lanes))
        self._starts = np.zeros(lanes)
        self._times = np.full(lanes, trace.start)
        self._rows = np.zeros(lanes, dtype=np.int64)
        self._tagged = np.ones(lanes, dtype=np.int64)
        self._steerable = np.ones(lanes, dtype=np.bool_)
        self._begun, self._count = False, 0

    def reset(self, seed: int | Sequence[int | None] | None = None) -> Float32Array:
        """Begin an episode in every lane; return observations, shape (lanes, n_features).

        Args:
            seed: an integer s seeds lane i with s + i; a sequence gives each lane's seed.
                None, also within the sequence, continues a lane's random numbers.
        """
        if seed is not None:
            seeds = [seed + i for i in range(self.lanes)] if isinstance(seed, int) else seed
            self._clock.rewind()
            for lane, lane_seed in enumerate(seeds):
                if lane_seed is not None:
                    self._rngs[lane] = np.random.default_rng(lane_seed)
        # The prices last, so that the same seed draws the same requests with and without them.
        count = 3 * DRAWN_TOGETHER + 1
        extra = 0 if self._price_range is None else 2
        randoms = np.stack([rng.random(count + extra) for rng in self._rngs])
        starts = randoms[:, 0] * len(self.trace.g_per_kwh)
        self._chances = self._by_step(randoms[:, 1:count])
        if self._price_range is not None:
            limited = bool(self.reward.limits)
            self._drawn = draw_prices(randoms[:, count:], self._price_range, limited=limited)
        self._starts = starts * self.trace.step_seconds
        self._clock.restart()
        self._begun, self._count = True, 0
        self._draw()
        return self._observe()

    def step(self, actions: Int64Array) -> Step:
        """Answer each lane's request under its directive, then draw the next requests.

        Args:
            actions: index of the directive for each lane, shape (lanes,).

        Raises:
            ValueError: an action is no index of a directive, or the episode has not begun or is
                over.
        """
        actions = np.asarray(actions)
        if (
            actions.shape != (self.lanes,)
            or actions.dtype.kind not in "iu"
            or actions.min() < 0
            or actions.max() >= self.n_directives
        ):
            raise ValueError(
                f"actions {actions!r}: give one of 0..{self.n_directives - 1} per lane"
            )
        if self._over():
            raise ValueError("the episode is over: call reset to begin the next one")
        if not self._begun:
            raise ValueError("no episode has begun: call reset first")
        rows = self._rows
        actions = np.where(self._steerable, actions, 0)
        intensity = self.trace.at(self._times)
        outcomes = self.backend.play(rows, actions)
        tagged, tasks = self._tagged.astype(np.bool_), self.tasks[rows]
        terms = self.reward.terms(tasks, outcomes, intensity, tagged, self._drawn)
        self._next()
        return Step(
            observations=self._observe(),
            rewards=np.sum(list(terms.values()), axis=0) if self._penalised else terms["footprint"],
            truncated=self._over(),
            terms=terms,
            outcomes=outcomes,
            grams=self.reward.grams(outcomes, intensity),
            intensity=intensity,
            rows=rows,
            actions=actions,
            costs=self.reward.costs(tasks, outcomes, intensity),
            tagged=tagged,
        )

    def rewards_of_each(self) -> Float64Array:
        """Return the reward that each directive would have now, shape (lanes, n_directives).

        Only a replay knows it: its backend has the outcomes of all directives.
        """
        tasks, tagged = self.tasks[self._rows], self._tagged.astype(np.bool_)
        intensity = self.trace.at(self._times)
        rewards = np.empty((self.lanes, self.n_directives))
        for action in range(self.n_directives):
            outcomes = self.backend.play(self._rows, np.where(self._steerable, action, 0))
            terms = self.reward.terms(tasks, outcomes, intensity, tagged, self._drawn)
            rewards[:, action] = np.sum(list(terms.values()), axis=0)
        return rewards

    def skip(self) -> Float32Array:
        """Go on to each lane's next request without an answer; begin the next episode at its end.

        Returns:
            Observations, shape (lanes, n_features).
        """
        self._next()
        return self.reset() if self._over() else self._observe()

    def _next(self) -> None:
        self._clock.advance()
        self._count += 1
        self._draw()

    def _over(self) -> bool:
        return self._max_episode_steps is not None and self._count >= self._max_episode_steps

    def action_masks(self) -> BoolArray:
        """Return a mask of the directives that each lane's request allows, (lanes, n_directives).

        A directive that the request does not allow is played as L0. (sb3-contrib expects this
        method name.)
        """
        masks = np.repeat(self._steerable[:, None], self.n_directives, axis=1)
        masks[:, 0] = True
        return masks

    def _draw(self) -> None:
        # An episode that reaches the end of the trace continues at the trace's start.
        elapsed = self._starts + self._clock.elapsed_seconds()
        self._times = self.trace.start + elapsed % (self.trace.end - self.trace.start)
        place = self._count % DRAWN_TOGETHER
        if self._count and not place:
            self._chances = self._by_step(
                np.stack([rng.random(3 * DRAWN_TOGETHER) for rng in self._rngs])
            )
        task_chance, prompt_chance, tag_chance = self._chances[:, place]
        self._rows = self._draws.rows(task_chance, prompt_chance, self.trace.hour(self._times))
        self._tagged = (tag_chance < self._tag_share).astype(np.int64)

    def _by_step(self, randoms: Float64Array) -> Float64Array:
        """Return each lane's row of random numbers as (3, DRAWN_TOGETHER, lanes)."""
        by_lane = randoms.reshape(self.lanes, 3, DRAWN_TOGETHER)
        return np.ascontiguousarray(by_lane.transpose(1, 2, 0))

    def _observe(self) -> Float32Array:
        moment = moment_on(self.trace, self._times, self.backend.in_flight(self.lanes))
        if self._shows_prices:
            prices = self._drawn or self.reward.prices(
                self.tasks[self._rows], moment.g_per_kwh, self._tagged.astype(np.bool_)
            )
            log_price, log_latency_price = prices.logarithms
            moment = replace(moment, log_price=log_price, log_latency_price=log_latency_price)
        parts = self._parts[self._tagged, self._rows]
        observations = self.featurizer.observe(parts, moment)
        self._steerable = self.featurizer.steerable(observations)
        observations[:, self._hidden] = 0
        return observations
