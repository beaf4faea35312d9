"""Pictures of an evaluation."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from agents.methods.method import ORACLE
from agents.methods.programs import PerTaskLP
from agents.methods.scene import Scene
from experiments.evaluate.result import Figures
from experiments.statistics import Interval

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# An evaluation can have more methods than the default cycle has colours.
COLOURS = plt.get_cmap("tab20").colors
# Shifts of the floors along the frontier; shifted floors are clipped to 0..1.
MARGINS = np.linspace(-0.45, 0.05, 26)


def draw(scene: Scene, figures: Mapping[str, Figures], out: Path) -> list[Path]:
    """Draw all pictures into `out` and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "frontier.png": _frontier(scene, figures),
        "quality-by-task.png": _by_task(scene, figures),
        "day.png": _day(scene, figures),
    }
    paths = []
    for name, figure in pictures.items():
        paths.append(out / name)
        figure.savefig(out / name, dpi=120)
        plt.close(figure)
    return paths


def _frontier(scene: Scene, figures: Mapping[str, Figures]) -> Any:
    """Draw saving against the worst task's margin, with the frontier of per_task_lp."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.set_prop_cycle(color=COLOURS)
    base = float(scene.means(scene.grams[:, 0]))
    savings = []
    for margin in MARGINS:
        floors = {task: min(1.0, max(0.0, f + margin)) for task, f in scene.floors.items()}
        chance = PerTaskLP().choose(replace(scene, floors=floors))
        savings.append(100 * (1 - float(scene.means((scene.grams * chance).sum(axis=1))) / base))
    axes.plot(MARGINS, savings, color="0.6", label="per_task_lp, floors shifted", zorder=1)
    for name, result in figures.items():
        task, worst = result.quality[scene.quality].worst(scene.floors)
        axes.errorbar(
            worst.value - scene.floors[task],
            result.saving_pct.value,
            xerr=_arms(worst),
            yerr=_arms(result.saving_pct),
            fmt="o",
            capsize=2,
            label=name,
        )
    axes.axvline(0, color="firebrick", linestyle=":", label="floors")
    axes.set_xlabel(f"worst task: {scene.quality} relative to L0, minus its floor")
    axes.set_ylabel("footprint saved relative to L0, %")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _by_task(scene: Scene, figures: Mapping[str, Figures]) -> Any:
    """Draw each task's quality ratio under each method, with the task's floor."""
    tasks = list(scene.floors)
    figure, axes = plt.subplots(figsize=(max(8, 1.5 * len(tasks)), 4.5), layout="constrained")
    axes.set_prop_cycle(color=COLOURS)
    width = 0.8 / max(1, len(figures))
    for position, (name, result) in enumerate(figures.items()):
        ratios = result.quality[scene.quality].by_task
        known = [(i, ratios[task]) for i, task in enumerate(tasks) if task in ratios]
        axes.bar(
            [i + (position - len(figures) / 2 + 0.5) * width for i, _ in known],
            [ratio.value for _, ratio in known],
            width,
            yerr=np.concatenate([_arms(ratio) for _, ratio in known], axis=1) if known else None,
            error_kw={"linewidth": 0.7},
            label=name,
        )
    for i, task in enumerate(tasks):
        axes.hlines(scene.floors[task], i - 0.45, i + 0.45, color="firebrick", linestyle=":")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel(f"{scene.quality} relative to L0")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _day(scene: Scene, figures: Mapping[str, Figures]) -> Any:
    """Draw intensity, directives and footprint of one method in the first zone by hour of day.

    The method is the last one that is not an oracle: the last policy, if there is one.
    """
    in_zone = scene.zone == 0
    hour_of_day = ((scene.times % 86400) // 3600).astype(int)
    hours = [h for h in range(24) if (in_zone & (hour_of_day == h)).any()]
    rows = [in_zone & (hour_of_day == h) for h in hours]
    candidates = [item for item in figures.items() if item[1].knows != ORACLE]
    name, result = (candidates or list(figures.items()))[-1]
    figure, (above, middle, below) = plt.subplots(
        3, 1, figsize=(8, 7), sharex=True, layout="constrained"
    )
    above.step(hours, [scene.means(scene.intensity, r) for r in rows], where="mid", color="0.3")
    above.set_ylabel("gCO2e/kWh")
    above.set_title(
        f"{scene.traces[0].zone} by hour of day (UTC), about "
        f"{in_zone.sum() / len(hours):.0f} requests per hour"
    )
    shares = np.array([scene.means(result.chances, r) for r in rows]).T
    middle.stackplot(hours, shares, labels=scene.profile.directives, alpha=0.8, step="mid")
    middle.set_ylabel(f"directives of\n{name}")
    middle.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    below.step(
        hours, [scene.means(scene.grams[:, 0], r) for r in rows], where="mid", label="always L0"
    )
    grams = (scene.grams * result.chances).sum(axis=1)
    below.step(hours, [scene.means(grams, r) for r in rows], where="mid", label=name)
    below.set_ylabel("gCO2e per request")
    below.set_xlabel("hour of day")
    below.set_ylim(bottom=0)
    below.set_xticks(range(0, 24, 3))
    below.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _arms(interval: Interval) -> Any:
    """Return the lengths of the error bar below and above the value, shape (2, 1)."""
    value = interval.value
    return np.array([[max(0.0, value - interval.low)], [max(0.0, interval.high - value)]])
