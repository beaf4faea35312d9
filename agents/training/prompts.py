"""A profile's prompts, ready to value policies by their own outcomes."""

from collections.abc import Mapping, Sequence

import numpy as np

from agents.policy.network import Policy
from agents.training.prepared import Prepared
from envs.arrays import BoolArray, Float64Array
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import HOUR_SECONDS, IntensityTrace
from envs.outcomes.limits import Limit
from envs.outcomes.reward import overshoots
from envs.world import moment_on


class PromptSet:
    """A profile's prompts spread over the trace's hours, each without its task's tag and with.

    Attributes:
        intensity: of each's hour, gCO2e/kWh, shape (2, n).
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
        # Evenly, in random order: chance leaves fewer gaps than with random hours.
        hours = np.linspace(0, len(trace.g_per_kwh), count, endpoint=False).astype(np.int64)
        times = [
            np.asarray(trace.start + HOUR_SECONDS * rng.permutation(hours), dtype=np.float64)
            for _ in parts
        ]
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
        """By how much each latency limit is exceeded on average, and the standard error.

        Args:
            chance: as `chances` gives it.
        """
        found = {}
        for task, limit in limits.items():
            rows = self.of_task[task]
            mean = chance.mean(axis=0)[rows]
            for name, excess in overshoots(task, limit, self._seconds[rows]).items():
                found[name] = _mean_and_error((excess * mean).sum(axis=1))
        return found

    def least_overshoots(self, limits: Mapping[str, Limit]) -> dict[str, tuple[float, float]]:
        """The least that a choice of directives comes to, for each limit by itself.

        As `overshoots`, if each prompt had the directive that is best for it.
        """
        found = {}
        for task, limit in limits.items():
            seconds = self._seconds[self.of_task[task]]
            for name, excess in overshoots(task, limit, seconds).items():
                found[name] = _mean_and_error(excess.min(axis=1))
        return found

    def right_at_l0(self, task: str, among: BoolArray) -> float:
        """Sum of the quality under L0 among some prompts; 0 where the task has none of them."""
        return float(self.scores[self.rows[task] & among, 0].sum()) if task in self.rows else 0.0

    def chances(self, policy: Policy) -> Float64Array:
        """Probabilities without and with tags, shape (2, n, n_directives)."""
        chance = policy.allowed(self._observations, self._steerable)
        return chance.reshape(self._grams.shape)

    def grams_ratio(self, chance: Float64Array) -> float:
        """Expected footprint relative to always L0."""
        return float((self._grams * chance).sum() / self._grams[:, :, 0].sum())

    def ratio(
        self, tasks: Sequence[str], chance: Float64Array, among: BoolArray
    ) -> tuple[float, float]:
        """Quality of tasks together, relative to L0, under chances of shape (n, n_directives).

        Of the prompts `among`, shape (n,); with its standard error, by the delta method.
        """
        rows = np.any([self.rows[task] for task in tasks], axis=0) & among
        kept = (self.scores[rows] * chance[rows]).sum(axis=1)
        reference = self.scores[rows, 0]
        ratio = float(kept.sum() / reference.sum())
        spread = float((kept - ratio * reference).std())
        return ratio, spread * float(np.sqrt(len(kept))) / float(reference.sum())


def _mean_and_error(values: Float64Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / float(np.sqrt(len(values)))
