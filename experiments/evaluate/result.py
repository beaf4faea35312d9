"""The figures of methods on a scene, each with an interval that resamples prompts.

Shapes: n requests, D directives, B resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from agents.methods.method import Method
from agents.methods.scene import Scene
from envs.arrays import Float64Array
from experiments.evaluate.cells import Cell, quality_cells
from experiments.evaluate.measures import Columns, excess, excess_by_task, ratio, saving, task_ratio
from experiments.evaluate.repeat import Repeat, choose
from experiments.statistics import BootstrapFigure, Interval, average_repeats, resampled_sums


@dataclass(frozen=True)
class Kept:
    """One kind of quality, relative to that of L0 on the same requests.

    Attributes:
        ratio: quality ratio over all tasks with known values.
        by_task: quality ratio of each task; tasks without known values are left out.
        counts: number of requests with known values, by task.
    """

    ratio: Interval
    by_task: dict[str, Interval]
    counts: dict[str, int]

    def worst(self, floors: Mapping[str, float]) -> tuple[str, Interval]:
        """Return the task with the smallest (ratio - floor), and its ratio; the first in a tie."""
        return min(self.by_task.items(), key=lambda item: round(item[1].value - floors[item[0]], 6))


@dataclass(frozen=True)
class Figures:
    """One method's figures over all requests, weighted by the scene's weights.

    Attributes:
        knows: outcomes that the method knew: a constant of `agents.methods.method`.
        saving_pct: footprint saved relative to always L0, %.
        excess_pct: saving beyond each task's own frontier of fixed mixes at the quality that
            the method reached on the task, weighted by the tasks' L0 footprint, points.
        excess_by_task_pct: the excess of each task alone, in points of its L0 footprint.
        grams_per_request: mean footprint, gCO2e.
        grams_per_correct: footprint per correct answer, gCO2e, over the requests with known
            correctness; None if there is no such request or no correct answer.
        tokens_per_request: mean number of completion tokens.
        seconds_per_request: mean latency, s.
        share: mean probability of each directive.
        quality: quality relative to L0, by kind of quality; pooled over zones.
        cells, month_cells: the quality that the floors apply to, by task and zone, and by month
            too; the worst first.
        chances: probability of each directive for each request in the first repetition, shape
            (n, D).
        paired: excess and saving of each repetition, with their values over the resamples, which
            all methods share.
    """

    knows: str
    saving_pct: Interval
    excess_pct: Interval
    excess_by_task_pct: dict[str, float]
    grams_per_request: float
    grams_per_correct: float | None
    tokens_per_request: float
    seconds_per_request: float
    share: dict[str, float]
    quality: dict[str, Kept]
    cells: list[Cell]
    month_cells: list[Cell]
    chances: Float64Array
    paired: dict[str, list[BootstrapFigure]] = field(repr=False)

    def difference(self, measure: str, other: "Figures") -> Interval:
        """Return this method's excess or saving less another one's, with its paired interval.

        Args:
            measure: "excess" or "saving".
            other: figures on the same repetitions.
        """
        return average_repeats(
            [
                BootstrapFigure(ours.value - theirs.value, ours.draws - theirs.draws)
                for ours, theirs in zip(self.paired[measure], other.paired[measure], strict=True)
            ]
        ).interval


def judge(scene: Scene, methods: Mapping[str, Method], resamples: int = 2000) -> dict[str, Figures]:
    """Return the expected figures of every method on the same scene."""
    return judged([choose(scene, methods)], resamples)


def judged(repeats: Sequence[Repeat], resamples: int = 2000) -> dict[str, Figures]:
    """Return the expected figures of every method, averaged over repetitions.

    All repetitions must have the same prompts. The prompts are resampled once for all methods
    and repetitions, so that differences between methods stay paired.
    """
    samples = [_sampled(repeat, resamples) for repeat in repeats]
    return {
        name: _figures(name, repeats, [by_method[name] for by_method in samples])
        for name in samples[0]
    }


@dataclass(frozen=True)
class _Sampled:
    """One method's figures in one repetition, with their values over the resamples."""

    saving_pct: BootstrapFigure
    excess_pct: BootstrapFigure
    excess_by_task_pct: Float64Array
    ratio: dict[str, BootstrapFigure]
    by_task: dict[str, dict[str, BootstrapFigure]]
    counts: dict[str, dict[str, int]]


def _sampled(repeat: Repeat, resamples: int) -> dict[str, _Sampled]:
    columns = Columns(repeat.scene)
    for name, chance in repeat.chances.items():
        columns.add(name, chance)
    by_prompt = columns.by_prompt()
    sums: Float64Array = by_prompt.sum(axis=0, keepdims=True)
    drawn_sums = resampled_sums(by_prompt, resamples=resamples)

    def figure(compute: Callable[[Float64Array], Float64Array]) -> BootstrapFigure:
        return BootstrapFigure(float(compute(sums)[0]), compute(drawn_sums))

    def sampled(name: str) -> _Sampled:
        """Return one method's figures, all over the same resamples."""
        return _Sampled(
            figure(partial(saving, columns, name)),
            figure(partial(excess, columns, name, repeat.scene.quality)),
            excess_by_task(columns, name, repeat.scene.quality, sums)[0],
            {kind: figure(partial(ratio, columns, name, kind)) for kind in columns.kinds},
            {
                kind: {
                    task: figure(partial(task_ratio, columns, name, kind, index))
                    for index, task in enumerate(columns.tasks)
                    if task in columns.counts[kind]
                }
                for kind in columns.kinds
            },
            columns.counts,
        )

    return {name: sampled(name) for name in repeat.chances}


def _figures(name: str, repeats: Sequence[Repeat], samples: Sequence[_Sampled]) -> Figures:
    """Average one method's figures over the repetitions."""

    def mean(values: Callable[[Scene], Float64Array]) -> float:
        """Return the expected value of the method's choices over requests and repetitions."""
        return float(
            np.mean(
                [
                    repeat.scene.means((values(repeat.scene) * repeat.chances[name]).sum(axis=1))
                    for repeat in repeats
                ]
            )
        )

    def average(pick: Callable[[_Sampled], BootstrapFigure]) -> Interval:
        return average_repeats([pick(sample) for sample in samples]).interval

    first = repeats[0]
    excess_by_task_pct = np.mean([sample.excess_by_task_pct for sample in samples], axis=0)
    shares = np.mean([repeat.scene.means(repeat.chances[name]) for repeat in repeats], axis=0)
    return Figures(
        first.knows[name],
        average(lambda sample: sample.saving_pct),
        average(lambda sample: sample.excess_pct),
        dict(zip(first.scene.floors, excess_by_task_pct.tolist(), strict=True)),
        mean(lambda scene: scene.grams),
        _per_correct(name, repeats),
        mean(lambda scene: scene.profile.outcomes.completion_tokens),
        mean(lambda scene: scene.profile.outcomes.latency_seconds),
        dict(zip(first.scene.profile.directives, shares.tolist(), strict=True)),
        {kind: _kept(kind, samples, average) for kind in samples[0].ratio},
        quality_cells(repeats, name),
        quality_cells(repeats, name, by_month=True),
        first.chances[name],
        {
            "excess": [sample.excess_pct for sample in samples],
            "saving": [sample.saving_pct for sample in samples],
        },
    )


def _per_correct(name: str, repeats: Sequence[Repeat]) -> float | None:
    """Return the footprint per correct answer, gCO2e, or None if no answer is correct."""
    grams = correct = 0.0
    for repeat in repeats:
        scene, chance = repeat.scene, repeat.chances[name]
        known = ~np.isnan(scene.profile.outcomes.correct).any(axis=1)
        weights = scene.weights[known]
        grams += float(weights @ (scene.grams * chance).sum(axis=1)[known])
        correct += float(weights @ (scene.profile.outcomes.correct * chance).sum(axis=1)[known])
    return grams / correct if correct > 0 else None


def _kept(
    kind: str,
    samples: Sequence[_Sampled],
    average: Callable[[Callable[[_Sampled], BootstrapFigure]], Interval],
) -> Kept:
    by_task = {
        task: average(lambda sample, task=task: sample.by_task[kind][task])  # type: ignore[misc]
        for task in samples[0].by_task[kind]
    }
    return Kept(
        average(lambda sample: sample.ratio[kind]),
        {task: ratio for task, ratio in by_task.items() if not np.isnan(ratio.value)},
        samples[0].counts[kind],
    )
