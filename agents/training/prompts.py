"""A profile's prompts, prepared to evaluate policies on their measured outcomes."""

from collections.abc import Mapping, Sequence

import numpy as np

from agents.policy.network import Policy
from agents.training.prepared import Prepared
from envs.arrays import BoolArray, Float64Array
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import IntensityTrace
from envs.outcomes.limits import Limit
from envs.outcomes.reward import latency_excess
from envs.world import moment_on


class PromptSet:
    """A profile's n prompts spread over a trace's hours, each without and with its task's tag.

    In arrays whose first axis has length 2, index 0 is without tags and index 1 with tags.

    Attributes:
        scores: quality of each prompt under each directive, shape (n, n_directives); NaN if
            unknown.
        of_task: mask of each task's prompts, shape (n,).
        rows: the same, restricted to prompts whose quality is known under every directive.
        intensity: grid intensity at each prompt's hour, gCO2e/kWh, shape (2, n).
    """

    def __init__(self, prepared: Prepared, trace: IntensityTrace, seed: int) -> None:
        profile, featurizer, parts = prepared.known, prepared.featurizer, prepared.parts
        self.scores = profile.quality(prepared.quality)
        self._seconds = profile.outcomes.latency_seconds
        self.of_task = {task: profile.rows_of(task) for task in profile.tasks}
        known = ~np.isnan(self.scores).any(axis=1)
        self.rows = {task: rows & known for task, rows in self.of_task.items()}
        count = len(self.scores)
        rng = np.random.default_rng(seed)
        times = [trace.spread(count, rng) for _ in parts]
        self._observations = np.concatenate(
            [
                featurizer.observe(part, moment_on(trace, time, np.zeros(count)))
                for part, time in zip(parts, times, strict=True)
            ]
        )
        self._steerable = featurizer.steerable(self._observations)
        self.intensity: Float64Array = np.stack([trace.at(time) for time in times])
        self._grams: Float64Array = footprint_grams(
            profile.outcomes.energy_joules,
            profile.outcomes.device_seconds,
            self.intensity[:, :, None],
        )

    def overshoots(
        self, limits: Mapping[str, Limit], chance: Float64Array
    ) -> dict[str, tuple[float, float]]:
        """Return the mean excess over each latency limit and its standard error.

        Args:
            limits: latency limits by task.
            chance: probabilities from `chances`, shape (2, n, n_directives).
        """
        by_limit = {}
        for task, limit in limits.items():
            rows = self.of_task[task]
            probabilities = chance.mean(axis=0)[rows]
            for name, excess in latency_excess(task, limit, self._seconds[rows]).items():
                by_limit[name] = _mean_and_error((excess * probabilities).sum(axis=1))
        return by_limit

    def least_excess(self, limits: Mapping[str, Limit]) -> dict[str, tuple[float, float]]:
        """Return the least mean excess over each limit that any choice of directives can reach.

        As `overshoots`, with each prompt's best directive for the limit in question.
        """
        by_limit = {}
        for task, limit in limits.items():
            seconds = self._seconds[self.of_task[task]]
            for name, excess in latency_excess(task, limit, seconds).items():
                by_limit[name] = _mean_and_error(excess.min(axis=1))
        return by_limit

    def total_quality_at_l0(self, task: str, among: BoolArray) -> float:
        """Return the summed quality under L0 of a task's prompts in `among`; 0 if there are none.

        Args:
            task: the task.
            among: mask of prompts, shape (n,).
        """
        return float(self.scores[self.rows[task] & among, 0].sum()) if task in self.rows else 0.0

    def chances(self, policy: Policy) -> Float64Array:
        """Return the probability of each directive, shape (2, n, n_directives)."""
        chance = policy.allowed(self._observations, self._steerable)
        return chance.reshape(self._grams.shape)

    def grams_ratio(self, chance: Float64Array) -> float:
        """Return the expected footprint relative to always using L0."""
        return float((self._grams * chance).sum() / self._grams[:, :, 0].sum())

    def ratio(
        self, tasks: Sequence[str], chance: Float64Array, among: BoolArray
    ) -> tuple[float, float]:
        """Return expected quality relative to L0 and its standard error (delta method).

        Args:
            tasks: tasks whose prompts are averaged together.
            chance: probability of each directive, shape (n, n_directives).
            among: mask of the prompts to include, shape (n,).
        """
        rows = np.any([self.rows[task] for task in tasks], axis=0) & among
        expected = (self.scores[rows] * chance[rows]).sum(axis=1)
        reference = self.scores[rows, 0]
        ratio = float(expected.sum() / reference.sum())
        spread = float((expected - ratio * reference).std())
        return ratio, spread * float(np.sqrt(len(expected))) / float(reference.sum())


def _mean_and_error(values: Float64Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / float(np.sqrt(len(values)))
