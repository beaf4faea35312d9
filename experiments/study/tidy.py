"""The runs of a study as one tidy table, and their aggregate statistics (rliable)."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rliable import library, metrics

from agents.methods.scene import Scene
from envs.arrays import Float64Array
from experiments.evaluate.result import Figures
from experiments.statistics import Interval
from experiments.study.job import Job

RESAMPLES = 5000


@dataclass(frozen=True)
class Row:
    """Results of one run on the prompts held out from its training.

    Attributes:
        variant, seed, fold: those of the run's job.
        saving_pct: footprint saved relative to always L0, %.
        excess_pct: saving beyond the frontier of fixed mixes at the same quality, points.
        quality_ratio: quality relative to L0, over all tasks.
        worst_task: the task with the smallest margin.
        worst_margin: smallest (quality ratio - floor) of any task.
        excess_by_task: saving beyond each task's own frontier, in points of the task's L0
            footprint.
    """

    variant: str
    seed: int
    fold: int
    saving_pct: float
    excess_pct: float
    quality_ratio: float
    worst_task: str
    worst_margin: float
    excess_by_task: dict[str, float]

    @classmethod
    def of(cls, job: Job, figures: Figures, scene: Scene) -> "Row":
        """Return the row for a job whose policy has these figures on the scene."""
        quality = figures.quality[scene.quality]
        task, ratio = quality.worst(scene.floors)
        return cls(
            job.variant,
            job.seed,
            job.fold,
            figures.saving_pct.value,
            figures.excess_pct.value,
            quality.ratio.value,
            task,
            ratio.value - scene.floors[task],
            figures.excess_by_task_pct,
        )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV with one line per run and one column per figure."""
    records = [
        {k: v for k, v in asdict(row).items() if k != "excess_by_task"}
        | {f"excess_pct/{task}": value for task, value in row.excess_by_task.items()}
        for row in rows
    ]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


@dataclass(frozen=True)
class Summary:
    """Aggregate results by variant; the first variant is the reference.

    Attributes:
        iqm: interquartile mean over runs and tasks of the excess by task, with a stratified
            bootstrap interval (Agarwal et al., 2021).
        saving, quality, margin: means over runs of `Row.saving_pct`, `Row.quality_ratio` and
            `Row.worst_margin`, with bootstrap intervals.
        better: probability that a run of the variant has a larger excess than a run of the
            reference, averaged over tasks; None for the reference.
    """

    iqm: dict[str, Interval]
    saving: dict[str, Interval]
    quality: dict[str, Interval]
    margin: dict[str, Interval]
    better: dict[str, Interval | None]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON-compatible types."""
        return {
            name: {v: None if i is None else i.to_json() for v, i in getattr(self, name).items()}
            for name in ("iqm", "saving", "quality", "margin", "better")
        }


def aggregated(rows: Sequence[Row], variants: Sequence[str]) -> Summary:
    """Return point estimates and 95% intervals over the runs of each variant."""
    # rliable draws from NumPy's global generator; the seed makes its intervals repeatable.
    np.random.seed(0)
    tasks = list(rows[0].excess_by_task)

    def table(pick: Any) -> dict[str, Float64Array]:
        return {v: np.array([pick(row) for row in rows if row.variant == v]) for v in variants}

    scores = table(lambda row: [row.excess_by_task[task] for task in tasks])
    means = {
        name: _estimates(
            {v: s[:, None] for v, s in table(lambda row, n=name: getattr(row, n)).items()},
            lambda x: np.array([metrics.aggregate_mean(x)]),
        )
        for name in ("saving_pct", "quality_ratio", "worst_margin")
    }
    reference = variants[0]
    pairs = {v: (scores[v], scores[reference]) for v in variants[1:]}
    better = _estimates(pairs, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]))
    return Summary(
        _estimates(scores, lambda x: np.array([metrics.aggregate_iqm(x)])),
        means["saving_pct"],
        means["quality_ratio"],
        means["worst_margin"],
        {reference: None, **better},
    )


def _estimates(scores: Any, compute: Any) -> dict[str, Interval]:
    points, intervals = library.get_interval_estimates(scores, compute, reps=RESAMPLES)
    return {
        name: Interval(float(points[name][0]), *(float(x) for x in intervals[name][:, 0]))
        for name in scores
    }
