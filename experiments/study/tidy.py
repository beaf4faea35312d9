"""A study's runs as one tidy table, and what they come to (rliable)."""

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
    """One run, on prompts that it never saw.

    Attributes:
        excess_by_task: points of each task's L0 footprint beyond its own frontier.
        worst_margin: least of quality ratio - floor over tasks.
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
    def of(cls, job: Job, found: Figures, scene: Scene) -> "Row":
        """From a judgement."""
        kept = found.quality[scene.quality]
        task, ratio = kept.worst(scene.floors)
        return cls(
            job.variant,
            job.seed,
            job.fold,
            found.saving_pct.value,
            found.excess_pct.value,
            kept.ratio.value,
            task,
            ratio.value - scene.floors[task],
            found.excess_by_task_pct,
        )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """One line a run, one column a figure."""
    flat = [
        {k: v for k, v in asdict(row).items() if k != "excess_by_task"}
        | {f"excess_pct/{task}": value for task, value in row.excess_by_task.items()}
        for row in rows
    ]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)


@dataclass(frozen=True)
class Summary:
    """What the variants come to; the first is the reference.

    Attributes:
        iqm: interquartile mean over runs and tasks of the excess by task, with a stratified
            bootstrap interval (Agarwal et al., 2021).
        saving, quality, margin: means over runs, with bootstrap intervals.
        better: probability that a run of the variant has more excess than one of the
            reference, task by task; None for the reference.
    """

    iqm: dict[str, Interval]
    saving: dict[str, Interval]
    quality: dict[str, Interval]
    margin: dict[str, Interval]
    better: dict[str, Interval | None]

    def to_json(self) -> dict[str, Any]:
        """As results are written."""
        return {
            name: {v: None if i is None else i.to_json() for v, i in getattr(self, name).items()}
            for name in ("iqm", "saving", "quality", "margin", "better")
        }


def aggregated(rows: Sequence[Row], variants: Sequence[str]) -> Summary:
    """Point estimates and 95% intervals over the runs of each variant."""
    # rliable draws from NumPy's global generator.
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
