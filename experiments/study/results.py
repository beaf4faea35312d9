"""A cross-validation's page in Markdown, and its savings by zone and window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.methods.scene import Scene
from envs.carbon.intensity import HOUR_SECONDS
from experiments.evaluate.result import Figures, Repeat
from experiments.statistics import Interval


@dataclass(frozen=True)
class ZoneSaving:
    """Savings in one window of one zone, against always L0, in percent.

    Attributes:
        start_hour: the window's first hour, from the trace's start.
        saving_pct: by method; means over the repetitions.
    """

    zone: str
    start_hour: int
    saving_pct: dict[str, float]


def zone_savings(repeats: Sequence[Repeat]) -> list[ZoneSaving]:
    """Every window of every zone, in the order of zones and hours."""
    sums: dict[tuple[int, int], dict[str, list[float]]] = {}
    for repeat in repeats:
        scene = repeat.scene
        starts = _starts(scene)
        for zone in range(len(scene.traces)):
            for start in np.unique(starts[scene.zone == zone]):
                rows = (scene.zone == zone) & (starts == start)
                base = float(scene.means(scene.grams[:, 0], rows))
                found = sums.setdefault((zone, int(start)), {})
                for name, chance in repeat.chances.items():
                    spent = float(scene.means((scene.grams * chance).sum(axis=1), rows))
                    found.setdefault(name, []).append(100 * (1 - spent / base))
    traces = repeats[0].scene.traces
    return [
        ZoneSaving(traces[zone].zone, start, {name: float(np.mean(s)) for name, s in found.items()})
        for (zone, start), found in sorted(sums.items())
    ]


def _starts(scene: Scene) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """First hour of each request's window, from its trace's start."""
    begins = np.array([trace.start for trace in scene.traces])[scene.zone]
    hours = np.floor((scene.times - begins) / HOUR_SECONDS).astype(np.int64)
    found: np.ndarray[tuple[int], np.dtype[np.int64]] = hours - scene.hours
    return found


def page(
    mix: str, scene: Scene, figures: Mapping[str, Figures], found: Sequence[ZoneSaving], seeds: int
) -> str:
    """The figures under one mix: all methods, then every zone and window."""
    tasks = list(scene.floors)
    lines = [
        f"### Floors on {scene.quality}, mix {mix}",
        "",
        f"{len(scene):,} requests, {seeds} seeds.",
        "",
        f"| method | carbon saved % | excess, points | quality / L0 | {' | '.join(tasks)} |",
        "|---" * (4 + len(tasks)) + "|",
    ]
    for name, one in figures.items():
        kept = one.quality[scene.quality]
        by_task = [_cell(kept.by_task[task], 2) for task in tasks]
        values = [_cell(one.saving_pct, 1), _cell(one.excess_pct, 1), _cell(kept.ratio, 2)]
        lines.append(f"| {name} | {' | '.join([*values, *by_task])} |")
    names = list(figures)
    lines += [
        "",
        f"| zone | from hour | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
    ]
    for cell in found:
        row = " | ".join(f"{cell.saving_pct[name]:.1f}" for name in names)
        lines.append(f"| {cell.zone} | {cell.start_hour} | {row} |")
    means = " | ".join(f"{np.mean([c.saving_pct[name] for c in found]):.1f}" for name in names)
    lines += [f"| mean | | {means} |", ""]
    return "\n".join(lines)


def _cell(found: Interval, digits: int) -> str:
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
