"""A profile's prompts in one zone, prepared to evaluate policies on their measured outcomes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agents.policy.network import Policy
from agents.policy.pricing import Points
from agents.training.prepared import Prepared
from envs.arrays import AnyArray, BoolArray, Float64Array
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import IntensityTrace
from envs.outcomes.floors import untagged_name
from envs.outcomes.reward import latency_excess
from envs.world import moment_on


class Group(NamedTuple):
    """The requests of one constraint: a task, with or without its tag, in one intensity band.

    Attributes:
        name: name of the constraint.
        task: task of the requests.
        tagged: whether the requests show their task's tag.
        floor: least quality relative to L0.
        rows: mask of its prompts, shape (n,).
        judged: mask of the prompts whose verdicts count for the floor, shape (n,): those of `rows`
            with a known quality, or those of all tasks if they share one floor.
    """

    name: str
    task: str
    tagged: bool
    floor: float
    rows: BoolArray
    judged: BoolArray


class PromptSet:
    """A profile's n prompts spread over a zone's hours, each without and with its task's tag.

    In arrays whose first axis has length 2, index 0 is without tags and index 1 with tags.

    Attributes:
        zone: name of the zone.
        scores: quality of each prompt under each directive, shape (n, n_directives); NaN if
            unknown.
        of_task: mask of each task's prompts, shape (n,).
        observations: shape (2 n, n_features), with a price of 1.
        intensity: grid intensity at each prompt's hour, gCO2e/kWh, shape (2, n).
        costs: mean costs by name (`agents.policy.front.COSTS`), shape (2, n, n_directives) each.
    """

    def __init__(self, prepared: Prepared, trace: IntensityTrace, seed: int) -> None:
        profile, featurizer, parts = prepared.known, prepared.featurizer, prepared.parts
        self.zone = trace.zone
        self.scores = profile.quality(prepared.quality)
        self._reward = prepared.reward
        self._featurizer = featurizer
        self._outcomes = profile.outcomes
        self.of_task = {task: profile.rows_of(task) for task in profile.tasks}
        self.known = ~np.isnan(self.scores).any(axis=1)
        count = len(self.scores)
        rng = np.random.default_rng(seed)
        times = [trace.spread(count, rng) for _ in parts]
        self.observations = np.concatenate(
            [
                featurizer.observe(part, moment_on(trace, time, np.zeros(count)))
                for part, time in zip(parts, times, strict=True)
            ]
        )
        self._steerable = featurizer.steerable(self.observations)
        self.intensity: Float64Array = np.stack([trace.at(time) for time in times])
        outcomes = profile.outcomes
        shape = (*self.intensity.shape, self.scores.shape[1])
        self.costs = {
            "grams": footprint_grams(
                outcomes.energy_joules, outcomes.device_seconds, self.intensity[:, :, None]
            ),
            "joules": np.broadcast_to(outcomes.energy_joules, shape),
            "device_seconds": np.broadcast_to(outcomes.device_seconds, shape),
            "latency_seconds": np.broadcast_to(outcomes.latency_seconds, shape),
            "completion_tokens": np.broadcast_to(outcomes.completion_tokens, shape),
        }

    @property
    def tags(self) -> list[str | None]:
        """The tag that each observation shows, length 2 n."""
        tags = np.empty(len(self.scores), dtype=object)
        for task, rows in self.of_task.items():
            tags[rows] = task
        return [None] * len(tags) + tags.tolist()

    def groups(self, *, together: bool) -> list[Group]:
        """Return the requests of each constraint; a task without a floor has one of 0.

        Args:
            together: whether the floors hold for all tasks together.
        """
        reward, schedule = self._reward, self._reward.floor_schedule
        bands = schedule.band(self.intensity)
        with_floor = np.any([self.of_task[task] for task in reward.floors], axis=0)
        groups = []
        for task in reward.quality_l0:
            floor = reward.floors.get(task, 0.0)
            for band, name in enumerate(schedule.names(task)):
                for tagged in (False, True):
                    among = bands[int(tagged)] == band
                    rows = self.of_task[task] & among
                    judged = (with_floor & among if together else rows) & self.known
                    groups.append(
                        Group(
                            name if tagged else untagged_name(name),
                            task,
                            tagged,
                            schedule.floor(floor, band),
                            rows,
                            judged,
                        )
                    )
        return groups

    def chances(self, policy: Policy, points: Points | None = None) -> Float64Array:
        """Return the probability of each directive, shape (2, n, n_directives).

        Args:
            points: prices of the 2 n observations, and the share of each that is left at L0; None
                to leave the prices as they are.
        """
        observations = self.observations
        if points is not None:
            observations = self._featurizer.at_prices(
                observations, points.log_price, points.log_latency_price
            )
        chance = policy.allowed(observations, self._steerable)
        if points is not None:
            chance *= 1 - points.l0_share[:, None]
            chance[:, 0] += points.l0_share
        return chance.reshape(*self.intensity.shape, -1)

    def at(self, policy: Policy, log_price: float, log_latency_price: float) -> Float64Array:
        """Return `chances` with the same prices for all requests."""
        count = len(self.observations)
        prices = np.full(count, log_price), np.full(count, log_latency_price)
        return self.chances(policy, Points(*prices, np.zeros(count)))

    def ratio(self, group: Group, chance: Float64Array) -> tuple[float, float]:
        """Return expected quality relative to L0 and its standard error (delta method).

        Args:
            chance: probabilities from `chances`, shape (2, n, n_directives).
        """
        rows = group.judged
        expected = (self.scores[rows] * chance[int(group.tagged), rows]).sum(axis=1)
        return _ratio(expected, self.scores[rows, 0])

    def means(
        self, group: Group, chance: Float64Array
    ) -> tuple[dict[str, float], dict[str, float], float]:
        """Return each of `costs` per request, the same under L0, and the error of the grams' ratio.

        Args:
            chance: as in `ratio`.
        """
        tag, rows = int(group.tagged), group.rows
        of_group = chance[tag, rows]
        means, base = {}, {}
        for name, table in self.costs.items():
            means[name] = float((table[tag, rows] * of_group).sum(axis=1).mean())
            base[name] = float(table[tag, rows, 0].mean())
        grams = self.costs["grams"][tag, rows]
        _, error = _ratio((grams * of_group).sum(axis=1), grams[:, 0])
        return means, base, error

    def overshoot(
        self, group: Group, chance: Float64Array | None, confidence: float
    ) -> dict[str, float]:
        """Return upper bounds on the mean excess over each latency limit of the group's task.

        Args:
            chance: as in `ratio`; None for each prompt's fastest directive.
            confidence: number of standard errors.
        """
        limit = self._reward.limits.get(group.task)
        if limit is None:
            return {}
        rows = group.rows
        bounds = {}
        seconds = self._outcomes.latency_seconds[rows]
        for name, excess in latency_excess(group.task, limit, seconds).items():
            values: AnyArray = excess.min(axis=1)
            if chance is not None:
                values = (excess * chance[int(group.tagged), rows]).sum(axis=1)
            bounds[name] = float(values.mean() + confidence * values.std() / np.sqrt(len(values)))
        return bounds


def _ratio(values: Float64Array, reference: Float64Array) -> tuple[float, float]:
    """Return the ratio of two means and its standard error; 1 and 0 if the reference is 0."""
    total = float(reference.sum())
    if not total > 0:
        return 1.0, 0.0
    ratio = float(values.sum()) / total
    spread = float((values - ratio * reference).std())
    return ratio, spread * float(np.sqrt(len(values))) / total


def prompt_sets(prepared: Prepared, trace: IntensityTrace, seed: int) -> Sequence[PromptSet]:
    """Return the profile's prompts in each zone of a trace."""
    return [PromptSet(prepared, part, seed) for part in trace.parts or (trace,)]
