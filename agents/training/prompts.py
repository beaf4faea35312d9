"""A profile's prompts in one zone, prepared to evaluate policies on their measured outcomes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from agents.policy.network import Policy
from agents.policy.pricing import Points
from agents.training.prepared import Prepared
from envs.arrays import AnyArray, BoolArray, Float64Array
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import HOURS, IntensityTrace
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
        rows: mask of its requests, shape (HOURS, n).
        judged: mask of the requests whose verdicts count for the floor, shape (HOURS, n): those of
            `rows` with a known quality, or those of all tasks if they share one floor.
    """

    name: str
    task: str
    tagged: bool
    floor: float
    rows: BoolArray
    judged: BoolArray


class Measured(NamedTuple):
    """Expected figures of a group.

    Attributes:
        quality, quality_error: quality relative to L0, and its standard error.
        costs, l0: mean of each cost per request, and the same under L0.
        grams_error: standard error of the footprint relative to L0.
        overshoot: upper bound on the mean excess over each latency limit of its task.
    """

    quality: float
    quality_error: float
    costs: dict[str, float]
    l0: dict[str, float]
    grams_error: float
    overshoot: dict[str, float]


class PromptSet:
    """A profile's n prompts, each sent at `HOURS` of a zone's hours, without and with its tag.

    In arrays whose first axis has length 2, index 0 is without tags and index 1 with tags.

    Attributes:
        zone: name of the zone.
        scores: quality of each prompt under each directive, shape (n, n_directives); NaN if
            unknown.
        known: mask of the prompts whose quality is known under every directive, shape (n,).
        of_task: mask of each task's prompts, shape (n,).
        observations: shape (2 HOURS n, n_features), with a price of 1.
        intensity: grid intensity at each request's hour, gCO2e/kWh, shape (2, HOURS, n).
        costs: costs by name (`agents.policy.front.COSTS`), shape (2, HOURS, n, n_directives) each.
    """

    def __init__(self, prepared: Prepared, trace: IntensityTrace, seed: int) -> None:
        profile, featurizer, parts = prepared.known, prepared.featurizer, prepared.parts
        self.zone = trace.zone
        self.scores = profile.quality(prepared.quality)
        self._reward = prepared.reward
        self._featurizer = featurizer
        # Excess over each limit, by task and limit, shape (n, n_directives); 0 for other tasks.
        self._excess = {
            (task, name): np.where(profile.rows_of(task)[:, None], excess, 0.0)
            for task, limit in prepared.reward.limits.items()
            for name, excess in latency_excess(
                task, limit, profile.outcomes.latency_seconds
            ).items()
        }
        self.of_task = {task: profile.rows_of(task) for task in profile.tasks}
        self.known = np.asarray(~np.isnan(self.scores).any(axis=1), dtype=np.bool_)
        count = len(self.scores)
        rng = np.random.default_rng(seed)
        times = np.stack([trace.spread_each(count, rng) for _ in parts])
        self.observations = np.concatenate(
            [
                featurizer.observe(part, moment_on(trace, time, np.zeros(count)))
                for part, of_part in zip(parts, times, strict=True)
                for time in of_part
            ]
        )
        self._steerable = featurizer.steerable(self.observations)
        self.intensity: Float64Array = trace.at(times)
        outcomes = profile.outcomes
        shape = (*self.intensity.shape, self.scores.shape[1])
        self.costs = {
            "grams": footprint_grams(
                outcomes.energy_joules, outcomes.device_seconds, self.intensity[..., None]
            ),
            "joules": np.broadcast_to(outcomes.energy_joules, shape),
            "device_seconds": np.broadcast_to(outcomes.device_seconds, shape),
            "latency_seconds": np.broadcast_to(outcomes.latency_seconds, shape),
            "completion_tokens": np.broadcast_to(outcomes.completion_tokens, shape),
        }

    @property
    def tags(self) -> list[str | None]:
        """The tag that each observation shows, length 2 HOURS n."""
        tags = np.empty(len(self.scores), dtype=object)
        for task, rows in self.of_task.items():
            tags[rows] = task
        return [None] * (HOURS * len(tags)) + tags.tolist() * HOURS

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
        """Return the probability of each directive, shape (2, HOURS, n, n_directives).

        Args:
            points: prices of the observations, and the share of each that is left at L0; None to
                leave the prices as they are.
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

    def sweep(
        self, policy: Policy, log_prices: Sequence[tuple[float, float]]
    ) -> Iterator[Float64Array]:
        """Yield `chances` at prices that are the same for all requests.

        Args:
            log_prices: the logarithms of pairs of prices, of quality and of latency.
        """
        columns = self._featurizer.prices
        low, high = self._featurizer.low[columns], self._featurizer.high[columns]
        index = range(columns.start, columns.stop)
        for chance in policy.sweep(self.observations, index, np.clip(log_prices, low, high)):
            chance[~self._steerable] = np.eye(1, chance.shape[1])
            yield chance.reshape(*self.intensity.shape, -1)

    def measure(
        self, groups: Sequence[Group], chance: Float64Array, confidence: float
    ) -> list[Measured]:
        """Return the expected quality and costs of each group.

        Args:
            chance: probabilities from `chances`, shape (2, HOURS, n, n_directives).
            confidence: number of standard errors of the bounds on latencies.
        """
        base_quality = np.where(self.known, self.scores[:, 0], 0.0)
        quality = np.where(self.known[:, None], self.scores, 0.0)
        values = []
        for of_tag, tag in zip(chance, (0, 1), strict=True):
            costs = [_expected(self.costs[name][tag], of_tag) for name in self.costs]
            l0 = [self.costs[name][tag][..., 0] for name in self.costs]
            over = [_expected(excess, of_tag) for excess in self._excess.values()]
            qualities = _expected(quality, of_tag), np.broadcast_to(base_quality, l0[0].shape)
            values.append((np.stack(qualities), np.stack([*costs, *l0, *over])))
        return [self._measured(group, *values[int(group.tagged)], confidence) for group in groups]

    def _measured(
        self, group: Group, qualities: Float64Array, others: Float64Array, confidence: float
    ) -> Measured:
        """Return a group's figures. Each prompt's requests count as one, with their sum.

        Args:
            qualities: expected quality, and that under L0, shape (2, HOURS, n).
            others: the costs, those under L0, and the excess over limits, shape (k, HOURS, n).
        """
        quality, error = _ratio(*_by_prompt(qualities, group.judged))
        by_prompt = _by_prompt(others, group.rows)
        requests, width = group.rows.sum(axis=0)[group.rows.any(axis=0)], len(self.costs)
        means = (by_prompt[: 2 * width].sum(axis=1) / max(1, requests.sum())).tolist()
        bounds = {}
        for (task, name), over in zip(self._excess, by_prompt[2 * width :], strict=True):
            if task == group.task:
                mean, error_of_mean = _ratio(over, requests)
                bounds[name] = mean + confidence * error_of_mean
        return Measured(
            quality,
            error,
            dict(zip(self.costs, means[:width], strict=True)),
            dict(zip(self.costs, means[width:], strict=True)),
            _ratio(by_prompt[0], by_prompt[width])[1],
            bounds,
        )

    def least_overshoot(self, group: Group, confidence: float) -> dict[str, float]:
        """Return upper bounds on the excess if each prompt takes its fastest directive."""
        bounds = {}
        for (task, name), excess in self._excess.items():
            if task == group.task:
                least: AnyArray = excess[group.rows.any(axis=0)].min(axis=1)
                error = float(least.std() / np.sqrt(len(least)))
                bounds[name] = float(least.mean()) + confidence * error
        return bounds


def _expected(values: Float64Array, chance: Float64Array) -> Float64Array:
    """Return the expectation over the directives, the last axis."""
    expected: Float64Array = np.einsum("...d,...d->...", values, chance)
    return expected


def _by_prompt(values: Float64Array, rows: BoolArray) -> Float64Array:
    """Return the sums over each prompt's requests of a group, shape (k, prompts of the group).

    Args:
        values: shape (k, HOURS, n).
        rows: mask of the group's requests, shape (HOURS, n).
    """
    prompts = rows.any(axis=0)
    sums: Float64Array = (values[:, :, prompts] * rows[:, prompts]).sum(axis=1)
    return sums


def _ratio(values: Float64Array, reference: AnyArray) -> tuple[float, float]:
    """Return the ratio of two sums over prompts and its standard error (delta method).

    1 and 0 if the reference is 0.

    Args:
        values, reference: one value a prompt, shape (prompts,).
    """
    total = float(reference.sum())
    if not total > 0:
        return 1.0, 0.0
    ratio = float(values.sum()) / total
    return ratio, float(np.sqrt(((values - ratio * reference) ** 2).sum())) / total
