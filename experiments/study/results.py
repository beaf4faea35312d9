"""The result page of a cross-validation in Markdown, with savings by zone and window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.methods.scene import Scene
from envs.carbon.intensity import HOUR_SECONDS
from experiments.evaluate.repeat import Repeat
from experiments.evaluate.result import Figures
from experiments.statistics import FEWEST_RUNS, Interval


@dataclass(frozen=True)
class ZoneSaving:
    """Savings of all methods in one window of one zone.

    Attributes:
        zone: name of the grid zone.
        start_hour: first hour of the window, counted from the start of the trace.
        saving_pct: footprint saved relative to always L0, %, by method; the mean over the
            repetitions.
    """

    zone: str
    start_hour: int
    saving_pct: dict[str, float]


def zone_savings(repeats: Sequence[Repeat]) -> list[ZoneSaving]:
    """Return the savings in every window of every zone, ordered by zone and start hour."""
    savings: dict[tuple[int, int], dict[str, list[float]]] = {}
    for repeat in repeats:
        scene = repeat.scene
        starts = _starts(scene)
        for zone in range(len(scene.traces)):
            for start in np.unique(starts[scene.zone == zone]):
                rows = (scene.zone == zone) & (starts == start)
                base = float(scene.means(scene.grams[:, 0], rows))
                by_method = savings.setdefault((zone, int(start)), {})
                for name, chance in repeat.chances.items():
                    grams = float(scene.means((scene.grams * chance).sum(axis=1), rows))
                    by_method.setdefault(name, []).append(100 * (1 - grams / base))
    traces = repeats[0].scene.traces
    return [
        ZoneSaving(
            traces[zone].zone,
            start,
            {name: float(np.mean(values)) for name, values in by_method.items()},
        )
        for (zone, start), by_method in sorted(savings.items())
    ]


def _starts(scene: Scene) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return the first hour of each request's window, from the start of its trace; shape (n,)."""
    trace_starts = np.array([trace.start for trace in scene.traces])[scene.zone]
    hours = np.floor((scene.times - trace_starts) / HOUR_SECONDS).astype(np.int64)
    window_starts: np.ndarray[tuple[int], np.dtype[np.int64]] = hours - scene.hours
    return window_starts


def page(
    mix: str,
    scene: Scene,
    figures: Mapping[str, Figures],
    cells: Sequence[ZoneSaving],
    seeds: int,
    held_out: str,
) -> str:
    """Return the page section for one mix: a table of methods and one of zones and windows.

    Args:
        mix: name of the mix, for the heading.
        figures: results by method.
        cells: savings by zone and window.
        seeds: number of seeds over which the figures are averaged.
        held_out: what the evaluation uses and no training did, in words.
    """
    tasks = list(scene.floors)
    lines = [
        f"### Floors on {scene.quality}, mix {mix}",
        "",
        f"{len(scene):,} requests, {seeds} seeds; judged on {held_out}.{_few(seeds)}",
        "",
        f"| method{_pooled(scene)} | carbon saved % | excess, points | quality / L0 "
        f"| {' | '.join(tasks)} |",
        "|---" * (4 + len(tasks)) + "|",
    ]
    for name, result in figures.items():
        quality = result.quality[scene.quality]
        by_task = [_cell(quality.by_task[task], 2) for task in tasks]
        values = [_cell(result.saving_pct, 1), _cell(result.excess_pct, 1), _cell(quality.ratio, 2)]
        lines.append(f"| {name} | {' | '.join([*values, *by_task])} |")
    lines += _cells(figures)
    names = list(figures)
    lines += [
        "",
        f"| zone | from hour | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
    ]
    for cell in cells:
        row = " | ".join(f"{cell.saving_pct[name]:.1f}" for name in names)
        lines.append(f"| {cell.zone} | {cell.start_hour} | {row} |")
    means = " | ".join(f"{np.mean([c.saving_pct[name] for c in cells]):.1f}" for name in names)
    lines += [f"| mean | | {means} |", ""]
    return "\n".join(lines)


def _pooled(scene: Scene) -> str:
    return f" (pooled over {len(scene.traces)} zones)" if len(scene.traces) > 1 else ""


def _cells(figures: Mapping[str, Figures]) -> list[str]:
    """Return the table of each method's worst tasks in a zone, and its missed floors."""
    lines = [
        "",
        "| method | worst task in a zone | and the next | floors missed, by zone | and by month "
        "| for sure, by zone |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in figures.items():
        worst = [
            f"{cell.task}, {cell.zone}: {cell.ratio.text(2)} (floor {cell.floor:g})"
            for cell in result.cells[:2]
        ]
        missed = [
            f"{sum(cell.missed for cell in cells)} of {len(cells)}"
            for cells in (result.cells, result.month_cells)
        ]
        missed.append(str(sum(cell.missed_for_sure for cell in result.cells)))
        lines.append(f"| {name} | {' | '.join([*worst, *[''] * (2 - len(worst)), *missed])} |")
    lines += [
        "",
        "A floor counts as missed if the whole interval lies below it, and as missed for sure if "
        "the upper bound that holds for all tasks and zones together does (95 %, Bonferroni).",
    ]
    return lines


def differences(name: str, figures: Mapping[str, Figures]) -> list[str]:
    """Return a table of a method's excess and saving less those of each other method, paired."""
    lines = [
        "",
        f"| {name} less | excess, points | carbon saved, points |",
        "|---|---|---|",
    ]
    for other, result in figures.items():
        if other != name:
            ours = figures[name]
            values = [ours.difference(measure, result) for measure in ("excess", "saving")]
            lines.append(f"| {other} | {' | '.join(value.text(1, '+') for value in values)} |")
    return lines


def _few(seeds: int) -> str:
    if seeds >= FEWEST_RUNS:
        return ""
    return (
        f" Fewer than {FEWEST_RUNS} seeds: the intervals hold for new prompts, not for new seeds."
    )


def _cell(interval: Interval, digits: int) -> str:
    return interval.text(digits)
