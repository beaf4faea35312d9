"""Sums of footprint and quality by task, and the figures computed from these sums.

Shapes: B resamples (rows of sums), D directives.
"""

import numpy as np

from agents.methods.frontier import frontier_cost
from agents.methods.scene import Scene
from agents.methods.simple import always
from envs.arrays import Float64Array
from envs.outcomes.outcome import QUALITIES

GRAMS = "grams"


class Columns:
    """Weighted footprint and quality by task of every chooser, to be resampled by prompt.

    A chooser is a method, identified by its name, or a fixed directive, identified by its index.

    Attributes:
        tasks: names of the tasks with a floor.
        kinds: kinds of quality with at least one known value.
        counts: number of requests with known values, by kind and task; tasks with none are
            left out.
        directives: indices of the directives.
    """

    def __init__(self, scene: Scene) -> None:
        self.tasks = tuple(scene.floors)
        self._index = scene.task_index
        self._weights = scene.weights
        self._columns: list[Float64Array] = []
        self._column_of: dict[tuple[str | int, str], int] = {}
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

    def add(self, chooser: str | int, chance: Float64Array) -> None:
        """Add the expected values of a chooser; requests with unknown values count as 0.

        Args:
            chance: probability of each directive for each request, shape (n, D).
        """
        for measure, values in self._values.items():
            known = ~np.isnan(values).any(axis=1)
            self._column_of[chooser, measure] = len(self._columns)
            self._columns.append(
                self._weights * np.where(known, np.nan_to_num(values * chance).sum(axis=1), 0.0)
            )

    def by_prompt(self) -> Float64Array:
        """Return the sums of each prompt's requests, shape (prompts, columns x tasks)."""
        prompts = int(self._prompt.max()) + 1
        tasks = len(self.tasks)
        cells = self._prompt * tasks + self._index
        sums: Float64Array = np.stack(
            [np.bincount(cells, column, prompts * tasks) for column in self._columns]
        )
        return sums.reshape(-1, prompts, tasks).transpose(1, 0, 2).reshape(prompts, -1)

    def of(self, chooser: str | int, measure: str, sums: Float64Array) -> Float64Array:
        """Select a chooser's sums of one measure by task, shape (B, tasks).

        Args:
            measure: `GRAMS` or a kind of quality.
            sums: sums over resampled prompts, shape (B, columns x tasks).
        """
        start = self._column_of[chooser, measure] * len(self.tasks)
        return sums[:, start : start + len(self.tasks)]

    def _counts(self, values: Float64Array) -> dict[str, int]:
        known = ~np.isnan(values).any(axis=1)
        counts = np.bincount(self._index[known], minlength=len(self.tasks))
        return {task: int(n) for task, n in zip(self.tasks, counts, strict=True) if n}


def saving(columns: Columns, name: str, sums: Float64Array) -> Float64Array:
    """Return the footprint saved relative to always L0, %, shape (B,).

    Args:
        name: name of the method.
        sums: sums over resampled prompts, one row per resample, as `Columns.by_prompt` has them.
    """
    saved: Float64Array = 100 * (
        1 - columns.of(name, GRAMS, sums).sum(axis=1) / columns.of(0, GRAMS, sums).sum(axis=1)
    )
    return saved


def excess(columns: Columns, name: str, kind: str, sums: Float64Array) -> Float64Array:
    """Return the saving beyond each task's frontier at the same quality, points, shape (B,).

    Tasks are weighted by their L0 footprint.

    Args:
        kind: kind of quality at which the method is compared with the frontier.
    """
    base = columns.of(0, GRAMS, sums)
    weighted: Float64Array = (excess_by_task(columns, name, kind, sums) * base).sum(axis=1)
    total: Float64Array = weighted / base.sum(axis=1)
    return total


def excess_by_task(columns: Columns, name: str, kind: str, sums: Float64Array) -> Float64Array:
    """Return the excess of each task, in points of the task's L0 footprint, shape (B, tasks)."""
    grams = np.stack([columns.of(d, GRAMS, sums) for d in columns.directives], axis=-1)
    scores = np.stack([columns.of(d, kind, sums) for d in columns.directives], axis=-1)
    frontier = frontier_cost(grams, scores, columns.of(name, kind, sums))
    saved = 100 * (frontier - columns.of(name, GRAMS, sums))
    by_task: Float64Array = saved / np.where(grams[..., 0] > 0, grams[..., 0], 1.0)
    return by_task


def ratio(columns: Columns, name: str, kind: str, sums: Float64Array) -> Float64Array:
    """Return the quality relative to L0 over all tasks, shape (B,); NaN where L0 has none."""
    base = columns.of(0, kind, sums).sum(axis=1)
    score = columns.of(name, kind, sums).sum(axis=1)
    relative: Float64Array = score / np.where(base > 0, base, np.nan)
    return relative


def task_ratio(
    columns: Columns, name: str, kind: str, task: int, sums: Float64Array
) -> Float64Array:
    """Return the quality of one task relative to L0, shape (B,); NaN where L0 has none.

    Args:
        task: index into `columns.tasks`.
    """
    base = columns.of(0, kind, sums)[:, task]
    relative: Float64Array = columns.of(name, kind, sums)[:, task] / np.where(
        base > 0, base, np.nan
    )
    return relative
