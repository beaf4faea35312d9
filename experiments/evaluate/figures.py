"""The evaluation's figures."""

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

# More methods than the default cycle has colours.
COLOURS = plt.get_cmap("tab20").colors
# How far the frontier's floors are moved; none leaves 0..1.
MARGINS = np.linspace(-0.45, 0.05, 26)


def draw(scene: Scene, figures: Mapping[str, Figures], out: Path) -> list[Path]:
    """Draw all figures into `out`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    made = {
        "frontier.png": _frontier(scene, figures),
        "quality-by-task.png": _by_task(scene, figures),
        "day.png": _day(scene, figures),
    }
    paths = []
    for name, figure in made.items():
        paths.append(out / name)
        figure.savefig(out / name, dpi=120)
        plt.close(figure)
    return paths


def _frontier(scene: Scene, figures: Mapping[str, Figures]) -> Any:
    """Saving against the worst task's distance from its floor, with per_task_lp's frontier."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.set_prop_cycle(color=COLOURS)
    base = float(scene.means(scene.grams[:, 0]))
    savings = []
    for margin in MARGINS:
        moved = {task: min(1.0, max(0.0, f + margin)) for task, f in scene.floors.items()}
        floored = replace(scene, floors=moved)
        chance = PerTaskLP().choose(floored)
        savings.append(100 * (1 - float(scene.means((scene.grams * chance).sum(axis=1))) / base))
    axes.plot(MARGINS, savings, color="0.6", label="per_task_lp, floors moved", zorder=1)
    for name, found in figures.items():
        task, worst = found.quality[scene.quality].worst(scene.floors)
        axes.errorbar(
            worst.value - scene.floors[task],
            found.saving_pct.value,
            xerr=_arms(worst),
            yerr=_arms(found.saving_pct),
            fmt="o",
            capsize=2,
            label=name,
        )
    axes.axvline(0, color="firebrick", linestyle=":", label="floors")
    axes.set_xlabel(f"worst task's {scene.quality} relative to L0, less its floor")
    axes.set_ylabel("footprint saved against L0, %")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _by_task(scene: Scene, figures: Mapping[str, Figures]) -> Any:
    """Each task's quality ratio under each method, with its floor."""
    tasks = list(scene.floors)
    figure, axes = plt.subplots(figsize=(max(8, 1.5 * len(tasks)), 4.5), layout="constrained")
    axes.set_prop_cycle(color=COLOURS)
    width = 0.8 / max(1, len(figures))
    for place, (name, found) in enumerate(figures.items()):
        ratios = found.quality[scene.quality].by_task
        known = [(i, ratios[task]) for i, task in enumerate(tasks) if task in ratios]
        axes.bar(
            [i + (place - len(figures) / 2 + 0.5) * width for i, _ in known],
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
    """The first zone by hour of day: intensity, directives and grams of one method.

    Of the last policy, or else of the last method that is no oracle.
    """
    here = scene.zone == 0
    of_day = ((scene.times % 86400) // 3600).astype(int)
    hours = [h for h in range(24) if (here & (of_day == h)).any()]
    rows = [here & (of_day == h) for h in hours]
    real = [item for item in figures.items() if item[1].knows != ORACLE]
    name, found = (real or list(figures.items()))[-1]
    figure, (above, middle, below) = plt.subplots(
        3, 1, figsize=(8, 7), sharex=True, layout="constrained"
    )
    above.step(hours, [scene.means(scene.intensity, r) for r in rows], where="mid", color="0.3")
    above.set_ylabel("gCO2e/kWh")
    above.set_title(
        f"{scene.traces[0].zone} by hour of day (UTC), about "
        f"{here.sum() / len(hours):.0f} requests in each"
    )
    shares = np.array([scene.means(found.chances, r) for r in rows]).T
    middle.stackplot(hours, shares, labels=scene.profile.directives, alpha=0.8, step="mid")
    middle.set_ylabel(f"directives of\n{name}")
    middle.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    below.step(
        hours, [scene.means(scene.grams[:, 0], r) for r in rows], where="mid", label="always L0"
    )
    spent = (scene.grams * found.chances).sum(axis=1)
    below.step(hours, [scene.means(spent, r) for r in rows], where="mid", label=name)
    below.set_ylabel("gCO2e a request")
    below.set_xlabel("hour of day")
    below.set_ylim(bottom=0)
    below.set_xticks(range(0, 24, 3))
    below.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _arms(found: Interval) -> Any:
    return np.array([[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]])
