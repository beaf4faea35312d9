"""What methods come to on a scene: figures, each with its interval by prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.frontier import frontier_cost
from agents.methods.method import Method
from agents.methods.simple import always
from agents.scene import Scene
from envs.outcome import QUALITIES
from experiments.statistics import Interval, interval, resampled_sums

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
        chances: what it chose, shape (n, D).
    """

    knows: str
    saving_pct: Interval
    excess_pct: Interval
    grams_per_request: float
    tokens_per_request: float
    seconds_per_request: float
    share: dict[str, float]
    quality: dict[str, Kept]
    chances: Floats


def judge(scene: Scene, methods: Mapping[str, Method], resamples: int = 2000) -> dict[str, Figures]:
    """Let every method choose for the same scene, and value it in expectation."""
    chances = {name: method.choose(scene) for name, method in methods.items()}
    columns = _Columns(scene)
    for name, chance in chances.items():
        columns.add(name, chance)
    by_prompt = columns.by_prompt()
    sums: Floats = by_prompt.sum(axis=0, keepdims=True)
    drawn = resampled_sums(by_prompt, resamples=resamples)
    return {
        name: _figures(scene, methods[name].knows, chance, name, columns, sums, drawn)
        for name, chance in chances.items()
    }


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


def _figures(
    scene: Scene,
    knows: str,
    chance: Floats,
    name: str,
    columns: _Columns,
    sums: Floats,
    drawn: Floats,
) -> Figures:
    def found(compute: Any) -> Interval:
        return interval(float(compute(sums)[0]), compute(drawn))

    def mean(values: Floats) -> float:
        return float(scene.means((values * chance).sum(axis=1)))

    def saving(of: Floats) -> Floats:
        saved: Floats = 100 * (
            1 - columns.of(name, GRAMS, of).sum(axis=1) / columns.of(0, GRAMS, of).sum(axis=1)
        )
        return saved

    return Figures(
        knows,
        found(saving),
        found(lambda of: _excess(columns, name, scene.quality, of)),
        mean(scene.grams),
        mean(scene.profile.completion_tokens),
        mean(scene.profile.latency_seconds),
        {
            directive: float(x)
            for directive, x in zip(scene.profile.directives, scene.means(chance), strict=True)
        },
        {kind: _kept(columns, name, kind, sums, drawn) for kind in columns.kinds},
        chance,
    )


def _excess(columns: _Columns, name: str, kind: str, of: Floats) -> Floats:
    """Points of saving beyond each task's frontier at the quality reached, shape (B,)."""
    grams = np.stack([columns.of(d, GRAMS, of) for d in columns.directives], axis=-1)
    scores = np.stack([columns.of(d, kind, of) for d in columns.directives], axis=-1)
    frontier = frontier_cost(grams, scores, columns.of(name, kind, of))
    spent = columns.of(name, GRAMS, of)
    more: Floats = 100 * (frontier - spent).sum(axis=1) / grams[..., 0].sum(axis=1)
    return more


def _kept(columns: _Columns, name: str, kind: str, sums: Floats, drawn: Floats) -> Kept:
    def ratios(of: Floats) -> Floats:
        base = columns.of(0, kind, of)
        kept: Floats = columns.of(name, kind, of) / np.where(base > 0, base, np.nan)
        return kept

    def overall(of: Floats) -> Floats:
        base = columns.of(0, kind, of).sum(axis=1)
        kept = columns.of(name, kind, of).sum(axis=1)
        whole: Floats = kept / np.where(base > 0, base, np.nan)
        return whole

    point, spread = ratios(sums)[0], ratios(drawn)
    counts = columns.counts[kind]
    return Kept(
        interval(float(overall(sums)[0]), overall(drawn)),
        {
            task: interval(float(point[i]), spread[:, i])
            for i, task in enumerate(columns.tasks)
            if task in counts and not np.isnan(point[i])
        },
        counts,
    )
