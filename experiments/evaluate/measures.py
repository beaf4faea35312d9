"""What is measured of methods: sums by task to resample, and the figures made of them."""

import numpy as np

from agents.methods.frontier import frontier_cost
from agents.methods.scene import Scene
from agents.methods.simple import always
from envs.arrays import Float64Array
from envs.outcomes.outcome import QUALITIES

GRAMS = "grams"


class Columns:
    """Weighted sums to resample: footprint and quality of all who choose, a column a task.

    Who chooses is a method, by its name, or always the same directive, by its number.
    """

    def __init__(self, scene: Scene) -> None:
        self.tasks = tuple(scene.floors)
        self._index = scene.task_index
        self._weights = scene.weights
        self._columns: list[Float64Array] = []
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

    def add(self, who: str | int, chance: Float64Array) -> None:
        """Expected values of a choice; requests with an unknown value count for nothing."""
        for what, values in self._values.items():
            known = ~np.isnan(values).any(axis=1)
            self._place[who, what] = len(self._columns)
            self._columns.append(
                self._weights * np.where(known, np.nan_to_num(values * chance).sum(axis=1), 0.0)
            )

    def by_prompt(self) -> Float64Array:
        """Shape (prompts, columns x tasks)."""
        prompts = int(self._prompt.max()) + 1
        tasks = len(self.tasks)
        cells = self._prompt * tasks + self._index
        wide: Float64Array = np.stack(
            [np.bincount(cells, column, prompts * tasks) for column in self._columns]
        )
        return wide.reshape(-1, prompts, tasks).transpose(1, 0, 2).reshape(prompts, -1)

    def of(self, who: str | int, what: str, sums: Float64Array) -> Float64Array:
        """Sums of grams or a quality by task, shape (B, tasks)."""
        start = self._place[who, what] * len(self.tasks)
        return sums[:, start : start + len(self.tasks)]

    def _counts(self, values: Float64Array) -> dict[str, int]:
        known = ~np.isnan(values).any(axis=1)
        found = np.bincount(self._index[known], minlength=len(self.tasks))
        return {task: int(n) for task, n in zip(self.tasks, found, strict=True) if n}


def saving(columns: Columns, name: str, of: Float64Array) -> Float64Array:
    """Percent of always L0's footprint, shape (B,); `of` holds sums, a row a resample."""
    saved: Float64Array = 100 * (
        1 - columns.of(name, GRAMS, of).sum(axis=1) / columns.of(0, GRAMS, of).sum(axis=1)
    )
    return saved


def excess(columns: Columns, name: str, kind: str, of: Float64Array) -> Float64Array:
    """Points of saving beyond each task's frontier at the quality reached, shape (B,)."""
    base = columns.of(0, GRAMS, of)
    more: Float64Array = (excess_by_task(columns, name, kind, of) * base).sum(axis=1)
    whole: Float64Array = more / base.sum(axis=1)
    return whole


def excess_by_task(columns: Columns, name: str, kind: str, of: Float64Array) -> Float64Array:
    """The same in points of each task's own L0 footprint, shape (B, tasks)."""
    grams = np.stack([columns.of(d, GRAMS, of) for d in columns.directives], axis=-1)
    scores = np.stack([columns.of(d, kind, of) for d in columns.directives], axis=-1)
    frontier = frontier_cost(grams, scores, columns.of(name, kind, of))
    more = 100 * (frontier - columns.of(name, GRAMS, of))
    by_task: Float64Array = more / np.where(grams[..., 0] > 0, grams[..., 0], 1.0)
    return by_task


def ratio(columns: Columns, name: str, kind: str, of: Float64Array) -> Float64Array:
    """Quality to L0's over all tasks, shape (B,)."""
    base = columns.of(0, kind, of).sum(axis=1)
    kept: Float64Array = columns.of(name, kind, of).sum(axis=1) / np.where(base > 0, base, np.nan)
    return kept


def task_ratio(
    columns: Columns, name: str, kind: str, place: int, of: Float64Array
) -> Float64Array:
    """Quality to L0's of one task, shape (B,)."""
    base = columns.of(0, kind, of)[:, place]
    kept: Float64Array = columns.of(name, kind, of)[:, place] / np.where(base > 0, base, np.nan)
    return kept
