"""A window of the published experiment: what is sampled, hour by hour, and what it costs."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agents.methods.sprout import XI, evaluation_hours, last_evaluation, quality_floor
from envs.arrays import Float64Array, Int64Array
from envs.carbon.footprint import footprint_grams
from envs.outcomes.profile import Profile
from envs.requests.mix import Mix

HOURS = 720
JUDGED_PROMPTS = 1000


@dataclass(frozen=True)
class Sample:
    """The prompts judged in each hour, the same for every region, as the authors drew them.

    Attributes:
        profile: what they are drawn from.
        rows: shape (H, n), which of the profile's requests.
        task: shape (H, n), index into `tasks`.
        quality: of the table: "preference" or "correct".
    """

    profile: Profile
    tasks: tuple[str, ...]
    rows: Int64Array
    task: Int64Array
    quality: str = "preference"

    @property
    def energy_joules(self) -> Float64Array:
        """Of each prompt under each directive, shape (H, n, D)."""
        return self.profile.outcomes.energy_joules[self.rows]

    @property
    def device_seconds(self) -> Float64Array:
        """Of each prompt under each directive, shape (H, n, D)."""
        return self.profile.outcomes.device_seconds[self.rows]

    @cached_property
    def scores(self) -> Float64Array:
        """Quality of each prompt under each directive, shape (H, n, D)."""
        scores: Float64Array = self.profile.quality(self.quality)[self.rows]
        return scores

    @cached_property
    def energy_by_task(self) -> Float64Array:
        """Summed joules, shape (H, T, D)."""
        return self.by_task(self.energy_joules)

    @cached_property
    def seconds_by_task(self) -> Float64Array:
        """Summed seconds, shape (H, T, D)."""
        return self.by_task(self.device_seconds)

    @cached_property
    def scores_by_task(self) -> Float64Array:
        """Summed quality, shape (H, T, D)."""
        return self.by_task(self.scores)

    def by_task(self, values: Float64Array) -> Float64Array:
        """Sums of (H, n, D) or (H, n) over each task's prompts, shape (H, T, D) or (H, T)."""
        hours, count = self.task.shape
        cells = (np.arange(hours)[:, None] * len(self.tasks) + self.task).ravel()
        columns = values.reshape(hours * count, -1).T
        size = hours * len(self.tasks)
        sums: Float64Array = np.stack(
            [np.bincount(cells, column, size) for column in columns], axis=1
        )
        return sums.reshape(hours, len(self.tasks), *values.shape[2:])


def draw(profile: Profile, mix: Mix, seed: int, quality: str = "preference") -> Sample:
    """Draw `JUDGED_PROMPTS` prompts for each of `HOURS` hours, with replacement, by the mix."""
    rng = np.random.default_rng(seed)
    tasks = mix.tasks
    members = [np.flatnonzero(profile.rows_of(task)) for task in tasks]
    rows = np.empty((HOURS, JUDGED_PROMPTS), dtype=np.int64)
    task = np.empty_like(rows)
    for hour, shares in enumerate(mix.at(np.arange(HOURS))):
        counts = rng.multinomial(JUDGED_PROMPTS, shares / shares.sum())
        rows[hour] = np.concatenate(
            [rng.choice(mine, count) for mine, count in zip(members, counts, strict=True)]
        )
        task[hour] = np.repeat(np.arange(len(tasks)), counts)
    return Sample(profile, tasks, rows, task, quality)


@dataclass(frozen=True)
class Window:
    """A sample in a region's window.

    Attributes:
        intensity: of each hour, gCO2e/kWh, shape (H,).
        year_low, year_high: extremes of the region's year.
        mean_before: mean intensity of as many hours before the window.
        xi: SPROUT's tolerance.
    """

    sample: Sample
    intensity: Float64Array
    year_low: float
    year_high: float
    mean_before: float
    xi: float = XI

    @cached_property
    def floors(self) -> Float64Array:
        """SPROUT's floor of each hour, shape (H,)."""
        return self.floor_at(self.intensity)

    def floor_at(self, intensity: Float64Array) -> Float64Array:
        """SPROUT's floor at an intensity."""
        return quality_floor(intensity, self.year_low, self.year_high, self.xi)

    @cached_property
    def fired(self) -> list[int]:
        """Hours at which quality is evaluated anew."""
        return evaluation_hours(self.intensity)

    @cached_property
    def evaluated(self) -> Int64Array:
        """Hour whose evaluation is in force, shape (H,)."""
        return last_evaluation(self.fired, len(self.intensity))

    @cached_property
    def grams_by_task(self) -> Float64Array:
        """Summed footprint, gCO2e, shape (H, T, D)."""
        return footprint_grams(
            self.sample.energy_by_task,
            self.sample.seconds_by_task,
            self.intensity[:, None, None],
        )

    @property
    def grams(self) -> Float64Array:
        """Summed footprint of an hour's prompts, gCO2e, shape (H, D)."""
        summed: Float64Array = self.grams_by_task.sum(axis=1)
        return summed

    @property
    def scores(self) -> Float64Array:
        """Summed quality of an hour's prompts, shape (H, D)."""
        summed: Float64Array = self.sample.scores_by_task.sum(axis=1)
        return summed

    def request_grams(self) -> Float64Array:
        """Footprint of each prompt, gCO2e, shape (H, n, D)."""
        return footprint_grams(
            self.sample.energy_joules, self.sample.device_seconds, self.intensity[:, None, None]
        )


@dataclass(frozen=True)
class Outcome:
    """What a method did in a window.

    Attributes:
        grams: shape (H,), gCO2e of the hour's prompts.
        scores: shape (H, T), summed quality.
        shares: mean probability of each directive, shape (D,).
    """

    grams: Float64Array
    scores: Float64Array
    shares: Float64Array


@dataclass(frozen=True)
class TableCell:
    """A method's figures in a window, as the published table has them, and those it lacks.

    Attributes:
        saving_pct: footprint saved against always L0.
        preference_pct_of_base: quality relative to always L0's.
        worst_task_ratio: the least of the tasks' quality ratios.
        hours_under_floor_pct: share of hours whose realised quality lies under the floor.
        shares: mean probability of each directive.
    """

    saving_pct: float
    preference_pct_of_base: float
    worst_task_ratio: float
    hours_under_floor_pct: float
    shares: tuple[float, ...]


def table_cell(window: Window, outcome: Outcome) -> TableCell:
    """The figures of an outcome."""
    base = window.sample.scores_by_task[:, :, 0]
    kept = outcome.scores.sum(axis=1)
    tasks = base.sum(axis=0) > 0
    ratios = outcome.scores.sum(axis=0)[tasks] / base.sum(axis=0)[tasks]
    # An hour that just meets its floor is not under it for the solver's last digits.
    under = kept < window.floors * base.sum(axis=1) * (1 - 1e-7)
    return TableCell(
        saving_pct=100 * (1 - float(outcome.grams.sum()) / float(window.grams[:, 0].sum())),
        preference_pct_of_base=100 * float(kept.sum()) / float(base.sum()),
        worst_task_ratio=float(ratios.min()),
        hours_under_floor_pct=100 * float(under.mean()),
        shares=tuple(float(x) for x in outcome.shares),
    )
