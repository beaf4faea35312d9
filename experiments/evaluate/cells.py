"""Quality where the users are: by task and zone, and by task, zone and month, the worst first.

A company has its servers in one zone, and its users get that zone's answers. A quality that is
averaged over zones can hide a zone whose users get worse ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy.stats import norm

from agents.methods.scene import Scene
from envs.arrays import Float64Array, StrArray
from experiments.evaluate.repeat import Repeat
from experiments.statistics import FEWEST_RUNS, Interval
from serving.proportions import Z95

_Key = tuple[str, str, str]


@dataclass(frozen=True)
class Cell:
    """A method's quality on one task in one zone.

    Attributes:
        task, zone: the task and the zone.
        month: as 2024-03; None for all months.
        ratio: quality relative to L0 on the same requests, with its 95% interval.
        floor: least permitted ratio.
        requests: number of requests.
        highest: upper bound on the ratio that holds for all cells of the method together, with a
            probability of 95 % (Bonferroni).
    """

    task: str
    zone: str
    month: str | None
    ratio: Interval
    floor: float
    requests: int
    highest: float

    @property
    def margin(self) -> float:
        """Ratio less floor."""
        return self.ratio.value - self.floor

    @property
    def missed(self) -> bool:
        """True if the whole interval lies below the floor."""
        return self.ratio.high < self.floor

    @property
    def missed_for_sure(self) -> bool:
        """True if `highest` lies below the floor, so that looking at many cells is no excuse."""
        return self.highest < self.floor

    def to_json(self) -> dict[str, Any]:
        """Return the cell as JSON-ready values."""
        place = {"task": self.task, "zone": self.zone, "month": self.month}
        ratio = {"ratio": self.ratio.value, "ci95": [self.ratio.low, self.ratio.high]}
        return (
            place
            | ratio
            | {
                "floor": self.floor,
                "missed": self.missed,
                "highest": self.highest,
                "n": self.requests,
            }
        )


def quality_cells(repeats: Sequence[Repeat], name: str, *, by_month: bool = False) -> list[Cell]:
    """Return a method's cells, the one with the smallest margin first.

    The interval is that of the delta method over prompts, and over repetitions if there are five
    or more. Cells in which L0 has no quality are left out.

    Args:
        repeats: repetitions with the same prompts.
        name: name of the method.
        by_month: whether months are kept apart.
    """
    ratios: dict[_Key, list[float]] = {}
    # Influence of each prompt on a cell's ratio, summed over repetitions.
    influences: dict[_Key, dict[str, float]] = {}
    counts: dict[_Key, int] = {}
    for repeat in repeats:
        scene = repeat.scene
        kept = scene.weights * (scene.scores * repeat.chances[name]).sum(axis=1)
        base = scene.weights * scene.scores[:, 0]
        prompts = np.array([request.prompt_hash for request in scene.profile.requests])
        for key, rows in _groups(scene, by_month):
            total = float(base[rows].sum())
            if not total > 0:
                continue
            ratio = float(kept[rows].sum()) / total
            ratios.setdefault(key, []).append(ratio)
            counts[key] = counts.get(key, 0) + len(rows)
            by_prompt = influences.setdefault(key, {})
            residuals = (kept[rows] - ratio * base[rows]) / total / len(repeats)
            for prompt, residual in zip(prompts[rows], residuals, strict=True):
                by_prompt[prompt] = by_prompt.get(prompt, 0.0) + float(residual)
    together = float(norm.ppf(1 - 0.05 / max(1, len(ratios))))
    cells = []
    for key, values in ratios.items():
        ratio = float(np.mean(values))
        error = _error(np.array(values), np.array(list(influences[key].values())))
        cells.append(
            Cell(
                key[0],
                key[1],
                key[2] or None,
                Interval(ratio, ratio - Z95 * error, ratio + Z95 * error),
                repeats[0].scene.floors[key[0]],
                counts[key] // len(values),
                ratio + together * error,
            )
        )
    return sorted(cells, key=lambda cell: (round(cell.margin, 9), cell.task, cell.zone))


def _error(ratios: Float64Array, influences: Float64Array) -> float:
    """Return the standard error of a cell's mean ratio, over prompts and over repetitions."""
    variance = float((influences**2).sum())
    if len(ratios) >= FEWEST_RUNS:
        variance += float(ratios.var(ddof=1)) / len(ratios)
    return float(np.sqrt(variance))


def _groups(scene: Scene, by_month: bool) -> list[tuple[_Key, Any]]:
    """Return the keys of the cells and the indices of their requests."""
    zones = np.array([trace.zone for trace in scene.traces])[scene.zone]
    months = _months(scene.times) if by_month else np.full(len(scene), "")
    order = np.lexsort((months, zones, scene.tasks))
    keys = np.stack([scene.tasks, zones, months])[:, order]
    starts = np.flatnonzero(np.append(True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)))
    return [
        ((str(task), str(zone), str(month)), rows)
        for (task, zone, month), rows in zip(
            keys[:, starts].T, np.split(order, starts[1:]), strict=True
        )
    ]


def _months(times: Float64Array) -> StrArray:
    return np.array([datetime.fromtimestamp(t, UTC).strftime("%Y-%m") for t in times])
