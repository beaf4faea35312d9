"""The runs of a study as one tidy table, and their aggregate statistics (rliable)."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rliable import library, metrics

from agents.methods.scene import Scene
from experiments.evaluate.result import Figures
from experiments.statistics import FEWEST_RUNS, Interval, mean_of_runs
from experiments.study.job import Job

RESAMPLES = 5000


@dataclass(frozen=True)
class Row:
    """Results of one run on the prompts held out from its training.

    Attributes:
        variant, seed, fold: those of the run's job.
        training: digest of everything that shaped the training.
        saving_pct: footprint saved relative to always L0, %.
        excess_pct: saving beyond the frontier of fixed mixes at the same quality, points.
        quality_ratio: quality relative to L0, over all tasks.
        worst_task: the task with the smallest margin.
        worst_margin: smallest (quality ratio - floor) of any task, pooled over zones.
        worst_cell: the task and the zone with the smallest margin.
        worst_cell_margin: that margin.
        missed_in_zones: floors by task and zone below which the whole interval lies.
        excess_by_task: saving beyond each task's own frontier, in points of the task's L0
            footprint.
    """

    variant: str
    seed: int
    fold: int
    training: str
    saving_pct: float
    excess_pct: float
    quality_ratio: float
    worst_task: str
    worst_margin: float
    worst_cell: str
    worst_cell_margin: float
    missed_in_zones: int
    excess_by_task: dict[str, float]

    @classmethod
    def of(cls, job: Job, training: str, figures: Figures, scene: Scene) -> "Row":
        """Return the row for a job whose policy has these figures on the scene."""
        quality = figures.quality[scene.quality]
        task, ratio = quality.worst(scene.floors)
        return cls(
            job.variant,
            job.seed,
            job.fold,
            training,
            figures.saving_pct.value,
            figures.excess_pct.value,
            quality.ratio.value,
            task,
            ratio.value - scene.floors[task],
            f"{figures.cells[0].task} in {figures.cells[0].zone}",
            figures.cells[0].margin,
            sum(cell.missed for cell in figures.cells),
            figures.excess_by_task_pct,
        )


MEASURES: dict[str, Callable[[Row], float]] = {
    "excess": lambda row: float(np.mean(list(row.excess_by_task.values()))),
    "saving": lambda row: row.saving_pct,
    "quality": lambda row: row.quality_ratio,
    "margin": lambda row: row.worst_margin,
    "cell": lambda row: row.worst_cell_margin,
    "missed": lambda row: float(row.missed_in_zones),
}


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

    A run of a variant and the run of the reference with the same seed and the same held-out fold
    are a pair. Intervals are 95% t intervals; fewer than five runs, or runs that are all equal,
    have none.

    Attributes:
        excess, saving, quality, margin, cell, missed: means over runs of the excess (over tasks
            too), of `Row.saving_pct`, `Row.quality_ratio`, `Row.worst_margin`,
            `Row.worst_cell_margin` and `Row.missed_in_zones`.
        against: the same means of the paired differences to the reference, by variant and
            measure; empty for the reference.
        iqm: interquartile mean over runs and tasks of the excess by task (Agarwal et al., 2021),
            with a stratified bootstrap interval.
        pairs: number of pairs.
    """

    excess: dict[str, Interval]
    saving: dict[str, Interval]
    quality: dict[str, Interval]
    margin: dict[str, Interval]
    cell: dict[str, Interval]
    missed: dict[str, Interval]
    against: dict[str, dict[str, Interval]]
    iqm: dict[str, Interval]
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON-compatible types."""
        means = {
            name: {v: interval.to_json() for v, interval in getattr(self, name).items()}
            for name in (*MEASURES, "iqm")
        }
        against = {
            variant: {name: interval.to_json() for name, interval in differences.items()}
            for variant, differences in self.against.items()
        }
        return {**means, "paired_difference": against, "pairs": self.pairs}


def aggregated(rows: Sequence[Row], variants: Sequence[str]) -> Summary:
    """Return means and paired differences over the runs of each variant.

    Raises:
        ValueError: a run has no partner in another variant.
    """
    by_variant = {
        variant: {(row.seed, row.fold): row for row in rows if row.variant == variant}
        for variant in variants
    }
    keys = sorted(by_variant[variants[0]])
    if any(sorted(runs) != keys for runs in by_variant.values()):
        raise ValueError("the variants' runs have not the same seeds and folds")
    values = {
        variant: {
            name: np.array([MEASURES[name](runs[key]) for key in keys], dtype=np.float64)
            for name in MEASURES
        }
        for variant, runs in by_variant.items()
    }
    reference = values[variants[0]]
    means = {
        name: {variant: mean_of_runs(values[variant][name]) for variant in variants}
        for name in MEASURES
    }
    against = {
        variant: {name: mean_of_runs(values[variant][name] - reference[name]) for name in MEASURES}
        for variant in variants[1:]
    }
    return Summary(**means, against=against, iqm=_iqm(by_variant), pairs=len(keys))


def _iqm(by_variant: Mapping[str, Mapping[tuple[int, int], Row]]) -> dict[str, Interval]:
    # rliable draws from NumPy's global generator; the seed makes its intervals repeatable.
    np.random.seed(0)
    scores = {
        variant: np.array([list(row.excess_by_task.values()) for row in runs.values()])
        for variant, runs in by_variant.items()
    }
    points, intervals = library.get_interval_estimates(
        scores, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=RESAMPLES
    )
    few = len(next(iter(scores.values()))) < FEWEST_RUNS
    ends = {
        name: (float("nan"), float("nan")) if few else (float(x) for x in intervals[name][:, 0])
        for name in scores
    }
    return {name: Interval(float(points[name][0]), *ends[name]) for name in scores}
