"""One window of the published experiment: the prompts drawn each hour, and their costs.

Shapes: H hours, n prompts per hour, T tasks, D directives.
"""

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
    """The prompts evaluated in each hour; as in the paper, all regions share them.

    Attributes:
        profile: profile from which the prompts are drawn.
        tasks: T task names.
        rows: index of each prompt in the profile's requests, shape (H, n).
        task: index of each prompt's task in `tasks`, shape (H, n).
        quality: "preference" or "correct": the quality that the table reports.
    """

    profile: Profile
    tasks: tuple[str, ...]
    rows: Int64Array
    task: Int64Array
    quality: str = "preference"

    @property
    def energy_joules(self) -> Float64Array:
        """Energy of each prompt under each directive, J, shape (H, n, D)."""
        return self.profile.outcomes.energy_joules[self.rows]

    @property
    def device_seconds(self) -> Float64Array:
        """Device time of each prompt under each directive, s, shape (H, n, D)."""
        return self.profile.outcomes.device_seconds[self.rows]

    @cached_property
    def scores(self) -> Float64Array:
        """Quality of each prompt under each directive, shape (H, n, D)."""
        scores: Float64Array = self.profile.quality(self.quality)[self.rows]
        return scores

    @cached_property
    def energy_by_task(self) -> Float64Array:
        """Energy summed over each task's prompts, J, shape (H, T, D)."""
        return self.by_task(self.energy_joules)

    @cached_property
    def seconds_by_task(self) -> Float64Array:
        """Device time summed over each task's prompts, s, shape (H, T, D)."""
        return self.by_task(self.device_seconds)

    @cached_property
    def scores_by_task(self) -> Float64Array:
        """Quality summed over each task's prompts, shape (H, T, D)."""
        return self.by_task(self.scores)

    def by_task(self, values: Float64Array) -> Float64Array:
        """Sum values of shape (H, n, D) or (H, n) per task; return shape (H, T, D) or (H, T)."""
        hours, count = self.task.shape
        cells = (np.arange(hours)[:, None] * len(self.tasks) + self.task).ravel()
        columns = values.reshape(hours * count, -1).T
        size = hours * len(self.tasks)
        sums: Float64Array = np.stack(
            [np.bincount(cells, column, size) for column in columns], axis=1
        )
        return sums.reshape(hours, len(self.tasks), *values.shape[2:])


def draw(profile: Profile, mix: Mix, seed: int, quality: str = "preference") -> Sample:
    """Draw `JUDGED_PROMPTS` prompts for each of `HOURS` hours by the mix, with replacement."""
    rng = np.random.default_rng(seed)
    tasks = mix.tasks
    members = [np.flatnonzero(profile.rows_of(task)) for task in tasks]
    rows = np.empty((HOURS, JUDGED_PROMPTS), dtype=np.int64)
    task = np.empty_like(rows)
    for hour, shares in enumerate(mix.at(np.arange(HOURS))):
        counts = rng.multinomial(JUDGED_PROMPTS, shares / shares.sum())
        rows[hour] = np.concatenate(
            [rng.choice(pool, count) for pool, count in zip(members, counts, strict=True)]
        )
        task[hour] = np.repeat(np.arange(len(tasks)), counts)
    return Sample(profile, tasks, rows, task, quality)


@dataclass(frozen=True)
class Window:
    """One region's window of hours, with the prompts drawn in each hour.

    Attributes:
        sample: the prompts.
        intensity: carbon intensity of each hour, gCO2e/kWh, shape (H,).
        year_low, year_high: lowest and highest intensity of the region's year, gCO2e/kWh.
        mean_before: mean intensity of the H hours before the window, gCO2e/kWh.
        xi: tolerance of SPROUT's quality floor.
    """

    sample: Sample
    intensity: Float64Array
    year_low: float
    year_high: float
    mean_before: float
    xi: float = XI

    @cached_property
    def floors(self) -> Float64Array:
        """SPROUT's quality floor in each hour, relative to L0, shape (H,)."""
        return self.floor_at(self.intensity)

    def floor_at(self, intensity: Float64Array) -> Float64Array:
        """Return SPROUT's quality floor at the given intensity (gCO2e/kWh), same shape."""
        return quality_floor(intensity, self.year_low, self.year_high, self.xi)

    @cached_property
    def fired(self) -> list[int]:
        """Hours of the window in which the evaluator measures quality again."""
        return evaluation_hours(self.intensity)

    @cached_property
    def evaluated(self) -> Int64Array:
        """Hour of the evaluation that applies in each hour, shape (H,)."""
        return last_evaluation(self.fired, len(self.intensity))

    @cached_property
    def grams_by_task(self) -> Float64Array:
        """Footprint summed over each task's prompts, gCO2e, shape (H, T, D)."""
        return footprint_grams(
            self.sample.energy_by_task,
            self.sample.seconds_by_task,
            self.intensity[:, None, None],
        )

    @property
    def grams(self) -> Float64Array:
        """Footprint summed over each hour's prompts, gCO2e, shape (H, D)."""
        summed: Float64Array = self.grams_by_task.sum(axis=1)
        return summed

    @property
    def scores(self) -> Float64Array:
        """Quality summed over each hour's prompts, shape (H, D)."""
        summed: Float64Array = self.sample.scores_by_task.sum(axis=1)
        return summed

    def request_grams(self) -> Float64Array:
        """Return the footprint of each prompt under each directive, gCO2e, shape (H, n, D)."""
        return footprint_grams(
            self.sample.energy_joules, self.sample.device_seconds, self.intensity[:, None, None]
        )


@dataclass(frozen=True)
class Outcome:
    """The result of a method in a window.

    Attributes:
        grams: footprint of each hour's prompts, gCO2e, shape (H,).
        scores: quality summed over each task's prompts, shape (H, T).
        shares: mean probability of each directive, shape (D,).
    """

    grams: Float64Array
    scores: Float64Array
    shares: Float64Array


@dataclass(frozen=True)
class TableCell:
    """A method's figures in a window: those of the published table, and three more.

    Attributes:
        saving_pct: footprint saved relative to always L0, %.
        preference_pct_of_base: quality relative to always L0, %.
        worst_task_ratio: smallest quality ratio of any task, relative to L0.
        hours_under_floor_pct: share of hours whose realised quality is below the floor, %.
        shares: mean probability of each directive.
    """

    saving_pct: float
    preference_pct_of_base: float
    worst_task_ratio: float
    hours_under_floor_pct: float
    shares: tuple[float, ...]


def table_cell(window: Window, outcome: Outcome) -> TableCell:
    """Return the figures of a method's outcome in the window."""
    base = window.sample.scores_by_task[:, :, 0]
    hourly_scores = outcome.scores.sum(axis=1)
    tasks = base.sum(axis=0) > 0
    ratios = outcome.scores.sum(axis=0)[tasks] / base.sum(axis=0)[tasks]
    # The factor keeps solver rounding from counting an hour that exactly meets its floor.
    under = hourly_scores < window.floors * base.sum(axis=1) * (1 - 1e-7)
    return TableCell(
        saving_pct=100 * (1 - float(outcome.grams.sum()) / float(window.grams[:, 0].sum())),
        preference_pct_of_base=100 * float(hourly_scores.sum()) / float(base.sum()),
        worst_task_ratio=float(ratios.min()),
        hours_under_floor_pct=100 * float(under.mean()),
        shares=tuple(float(x) for x in outcome.shares),
    )
