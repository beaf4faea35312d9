"""What methods come to on a scene: figures, each with its interval by prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from agents.frontier import frontier_cost
from agents.methods.method import Method
from agents.methods.simple import always
from agents.scene import Scene
from envs.outcome import QUALITIES
from experiments.statistics import Drawn, Interval, averaged, resampled_sums

Floats = NDArray[np.float64]
GRAMS = "grams"


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
        chances: what it chose in the first repetition, shape (n, D).
    """

    knows: str
    saving_pct: Interval
    excess_pct: Interval
    excess_by_task_pct: dict[str, float]
    grams_per_request: float
    tokens_per_request: float
    seconds_per_request: float
    share: dict[str, float]
    quality: dict[str, Kept]
    chances: Floats


@dataclass(frozen=True)
class Repeat:
    """One repetition of a comparison: a scene, and what each method chose there.

    Attributes:
        chances: by method, shape (n, D).
        knows: by method.
    """

    scene: Scene
    chances: Mapping[str, Floats]
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


class _Columns:
    """Weighted sums to resample: footprint and quality of all who choose, a column a task.

    Who chooses is a method, by its name, or always the same directive, by its number.
    """

    def __init__(self, scene: Scene) -> None:
        self.tasks = tuple(scene.floors)
        self._index = scene.task_index
        self._weights = scene.weights
        self._columns: list[Floats] = []
        self._place: dict[tuple[str | int, str], int] = {}
        _, prompt = np.unique([r.prompt_hash for r in scene.profile.requests], return_inverse=True)
        self._prompt = prompt
        self.kinds = tuple(
            kind for kind in QUALITIES if not np.isnan(scene.profile.quality(kind)).all()
        )
        self.counts = {kind: self._counts(scene.profile.quality(kind)) for kind in self.kinds}
        self._values = {GRAMS: scene.grams}
        self._values |= {kind: scene.profile.quality(kind) for kind in self.kinds}
        self.directives = range(scene.scores.shape[1])
        for directive in self.directives:
            self.add(directive, always(scene, directive))

    def add(self, who: str | int, chance: Floats) -> None:
        """Expected values of a choice; requests with an unknown value count for nothing."""
        for what, values in self._values.items():
            known = ~np.isnan(values).any(axis=1)
            self._place[who, what] = len(self._columns)
            self._columns.append(
                self._weights * np.where(known, np.nan_to_num(values * chance).sum(axis=1), 0.0)
            )

    def by_prompt(self) -> Floats:
        """Shape (prompts, columns x tasks)."""
        prompts = int(self._prompt.max()) + 1
        tasks = len(self.tasks)
        cells = self._prompt * tasks + self._index
        wide: Floats = np.stack(
            [np.bincount(cells, column, prompts * tasks) for column in self._columns]
        )
        return wide.reshape(-1, prompts, tasks).transpose(1, 0, 2).reshape(prompts, -1)

    def of(self, who: str | int, what: str, sums: Floats) -> Floats:
        """Sums of grams or a quality by task, shape (B, tasks)."""
        start = self._place[who, what] * len(self.tasks)
        return sums[:, start : start + len(self.tasks)]

    def _counts(self, values: Floats) -> dict[str, int]:
        known = ~np.isnan(values).any(axis=1)
        found = np.bincount(self._index[known], minlength=len(self.tasks))
        return {task: int(n) for task, n in zip(self.tasks, found, strict=True) if n}


@dataclass(frozen=True)
class _Sampled:
    """One method's figures in one repetition, over the resamples."""

    saving_pct: Drawn
    excess_pct: Drawn
    excess_by_task_pct: Floats
    ratio: dict[str, Drawn]
    by_task: dict[str, dict[str, Drawn]]
    counts: dict[str, dict[str, int]]


def _sampled(repeat: Repeat, resamples: int) -> dict[str, _Sampled]:
    columns = _Columns(repeat.scene)
    for name, chance in repeat.chances.items():
        columns.add(name, chance)
    by_prompt = columns.by_prompt()
    sums: Floats = by_prompt.sum(axis=0, keepdims=True)
    drawn = resampled_sums(by_prompt, resamples=resamples)

    def found(compute: Callable[[Floats], Floats]) -> Drawn:
        return Drawn(float(compute(sums)[0]), compute(drawn))

    def of(name: str) -> _Sampled:
        """One method's figures."""
        return _Sampled(
            found(lambda of: _saving(columns, name, of)),
            found(lambda of: _excess(columns, name, repeat.scene.quality, of)),
            _excess_by_task(columns, name, repeat.scene.quality, sums)[0],
            {kind: found(partial(_ratio, columns, name, kind)) for kind in columns.kinds},
            {
                kind: {
                    task: found(partial(_task_ratio, columns, name, kind, place))
                    for place, task in enumerate(columns.tasks)
                    if task in columns.counts[kind]
                }
                for kind in columns.kinds
            },
            columns.counts,
        )

    return {name: of(name) for name in repeat.chances}


def _figures(name: str, repeats: Sequence[Repeat], found: Sequence[_Sampled]) -> Figures:
    def mean(values: Callable[[Scene], Floats]) -> float:
        """Of what the method chose, over requests and repetitions."""
        return float(
            np.mean(
                [
                    repeat.scene.means((values(repeat.scene) * repeat.chances[name]).sum(axis=1))
                    for repeat in repeats
                ]
            )
        )

    def over(pick: Callable[[_Sampled], Drawn]) -> Interval:
        return averaged([pick(one) for one in found]).interval

    first = repeats[0]
    by_task = np.mean([one.excess_by_task_pct for one in found], axis=0)
    shares = np.mean([repeat.scene.means(repeat.chances[name]) for repeat in repeats], axis=0)
    return Figures(
        first.knows[name],
        over(lambda one: one.saving_pct),
        over(lambda one: one.excess_pct),
        dict(zip(first.scene.floors, by_task.tolist(), strict=True)),
        mean(lambda scene: scene.grams),
        mean(lambda scene: scene.profile.completion_tokens),
        mean(lambda scene: scene.profile.latency_seconds),
        dict(zip(first.scene.profile.directives, shares.tolist(), strict=True)),
        {kind: _kept(kind, found, over) for kind in found[0].ratio},
        first.chances[name],
    )


def _kept(
    kind: str, found: Sequence[_Sampled], over: Callable[[Callable[[_Sampled], Drawn]], Interval]
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


def _saving(columns: _Columns, name: str, of: Floats) -> Floats:
    saved: Floats = 100 * (
        1 - columns.of(name, GRAMS, of).sum(axis=1) / columns.of(0, GRAMS, of).sum(axis=1)
    )
    return saved


def _excess(columns: _Columns, name: str, kind: str, of: Floats) -> Floats:
    """Points of saving beyond each task's frontier at the quality reached, shape (B,)."""
    base = columns.of(0, GRAMS, of)
    more: Floats = (_excess_by_task(columns, name, kind, of) * base).sum(axis=1)
    whole: Floats = more / base.sum(axis=1)
    return whole


def _excess_by_task(columns: _Columns, name: str, kind: str, of: Floats) -> Floats:
    """The same in points of each task's own L0 footprint, shape (B, tasks)."""
    grams = np.stack([columns.of(d, GRAMS, of) for d in columns.directives], axis=-1)
    scores = np.stack([columns.of(d, kind, of) for d in columns.directives], axis=-1)
    frontier = frontier_cost(grams, scores, columns.of(name, kind, of))
    more = 100 * (frontier - columns.of(name, GRAMS, of))
    by_task: Floats = more / np.where(grams[..., 0] > 0, grams[..., 0], 1.0)
    return by_task


def _ratio(columns: _Columns, name: str, kind: str, of: Floats) -> Floats:
    """Quality to L0's over all tasks, shape (B,)."""
    base = columns.of(0, kind, of).sum(axis=1)
    kept: Floats = columns.of(name, kind, of).sum(axis=1) / np.where(base > 0, base, np.nan)
    return kept


def _task_ratio(columns: _Columns, name: str, kind: str, place: int, of: Floats) -> Floats:
    """Quality to L0's of one task, shape (B,)."""
    base = columns.of(0, kind, of)[:, place]
    kept: Floats = columns.of(name, kind, of)[:, place] / np.where(base > 0, base, np.nan)
    return kept
