"""What methods come to on a scene: figures, each with its interval by prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from agents.methods.method import Method
from agents.methods.scene import Scene
from envs.arrays import Float64Array
from experiments.evaluate.measures import Columns, excess, excess_by_task, ratio, saving, task_ratio
from experiments.statistics import BootstrapFigure, Interval, average_repeats, resampled_sums


@dataclass(frozen=True)
class Kept:
    """Quality relative to L0's on the same requests, of one kind.

    Attributes:
        ratio: over all tasks with known values.
        by_task: tasks without values are left out.
        counts: requests of each task that have values.
    """

    ratio: Interval
    by_task: dict[str, Interval]
    counts: dict[str, int]

    def worst(self, floors: Mapping[str, float]) -> tuple[str, Interval]:
        """The task that keeps least, against its floor; the first of those that tie."""
        return min(self.by_task.items(), key=lambda item: round(item[1].value - floors[item[0]], 6))


@dataclass(frozen=True)
class Figures:
    """One method's figures; footprints are of all requests, weighted as the scene says.

    Attributes:
        saving_pct: footprint saved against always L0.
        excess_pct: saving beyond that of each task's own frontier of fixed mixes at the
            quality which the method reached there, weighted by the tasks' L0 footprint.
        excess_by_task_pct: the same for each task alone, in points of its L0 footprint.
        grams_per_correct: footprint over correct answers, of the requests that have a
            reference; None where none has one, or no answer is correct.
        chances: what it chose in the first repetition, shape (n, D).
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
    chances: Float64Array


@dataclass(frozen=True)
class Repeat:
    """One repetition of a comparison: a scene, and what each method chose there.

    Attributes:
        chances: by method, shape (n, D).
        knows: by method.
    """

    scene: Scene
    chances: Mapping[str, Float64Array]
    knows: Mapping[str, str]


def choose(scene: Scene, methods: Mapping[str, Method]) -> Repeat:
    """Let every method choose for the same scene."""
    return Repeat(
        scene,
        {name: method.choose(scene) for name, method in methods.items()},
        {name: method.knows for name, method in methods.items()},
    )


def judge(scene: Scene, methods: Mapping[str, Method], resamples: int = 2000) -> dict[str, Figures]:
    """Let every method choose for the same scene, and value it in expectation."""
    return judged([choose(scene, methods)], resamples)


def judged(repeats: Sequence[Repeat], resamples: int = 2000) -> dict[str, Figures]:
    """Means over repetitions on the same prompts, valued in expectation.

    The prompts are resampled once for all methods and repetitions.
    """
    found = [_sampled(repeat, resamples) for repeat in repeats]
    return {name: _figures(name, repeats, [f[name] for f in found]) for name in found[0]}


@dataclass(frozen=True)
class _Sampled:
    """One method's figures in one repetition, over the resamples."""

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
    drawn = resampled_sums(by_prompt, resamples=resamples)

    def found(compute: Callable[[Float64Array], Float64Array]) -> BootstrapFigure:
        return BootstrapFigure(float(compute(sums)[0]), compute(drawn))

    def of(name: str) -> _Sampled:
        """One method's figures."""
        return _Sampled(
            found(lambda of: saving(columns, name, of)),
            found(lambda of: excess(columns, name, repeat.scene.quality, of)),
            excess_by_task(columns, name, repeat.scene.quality, sums)[0],
            {kind: found(partial(ratio, columns, name, kind)) for kind in columns.kinds},
            {
                kind: {
                    task: found(partial(task_ratio, columns, name, kind, place))
                    for place, task in enumerate(columns.tasks)
                    if task in columns.counts[kind]
                }
                for kind in columns.kinds
            },
            columns.counts,
        )

    return {name: of(name) for name in repeat.chances}


def _figures(name: str, repeats: Sequence[Repeat], found: Sequence[_Sampled]) -> Figures:
    def mean(values: Callable[[Scene], Float64Array]) -> float:
        """Of what the method chose, over requests and repetitions."""
        return float(
            np.mean(
                [
                    repeat.scene.means((values(repeat.scene) * repeat.chances[name]).sum(axis=1))
                    for repeat in repeats
                ]
            )
        )

    def over(pick: Callable[[_Sampled], BootstrapFigure]) -> Interval:
        return average_repeats([pick(one) for one in found]).interval

    first = repeats[0]
    by_task = np.mean([one.excess_by_task_pct for one in found], axis=0)
    shares = np.mean([repeat.scene.means(repeat.chances[name]) for repeat in repeats], axis=0)
    return Figures(
        first.knows[name],
        over(lambda one: one.saving_pct),
        over(lambda one: one.excess_pct),
        dict(zip(first.scene.floors, by_task.tolist(), strict=True)),
        mean(lambda scene: scene.grams),
        _per_correct(name, repeats),
        mean(lambda scene: scene.profile.outcomes.completion_tokens),
        mean(lambda scene: scene.profile.outcomes.latency_seconds),
        dict(zip(first.scene.profile.directives, shares.tolist(), strict=True)),
        {kind: _kept(kind, found, over) for kind in found[0].ratio},
        first.chances[name],
    )


def _per_correct(name: str, repeats: Sequence[Repeat]) -> float | None:
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
    found: Sequence[_Sampled],
    over: Callable[[Callable[[_Sampled], BootstrapFigure]], Interval],
) -> Kept:
    by_task = {
        task: over(lambda one, task=task: one.by_task[kind][task])  # type: ignore[misc]
        for task in found[0].by_task[kind]
    }
    return Kept(
        over(lambda one: one.ratio[kind]),
        {task: ratio for task, ratio in by_task.items() if not np.isnan(ratio.value)},
        found[0].counts[kind],
    )
