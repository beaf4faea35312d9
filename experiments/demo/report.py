"""Comparison of the demo's arms: table, figure and HTML page."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from rich.console import Console
from rich.table import Table

from envs.arrays import Float64Array
from envs.carbon.footprint import per_functional_unit
from envs.carbon.intensity import HOUR_SECONDS, IntensityTrace
from envs.requests.request import Request
from experiments.demo.drive import Arm
from experiments.statistics import Interval, ratio_of_means

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class ArmSummary:
    """Means of an arm, and its ratios to the first arm (always L0) with 95% intervals.

    Attributes:
        name: name of the arm.
        tokens_per_request: mean generated tokens.
        joules_per_request: mean energy, J.
        grams_per_request: mean carbon, gCO2e.
        seconds_per_request: mean latency, s.
        share: share of requests by directive.
        joules_ratio, grams_ratio: ratio of the means to those of the first arm.
        correct_by_task: mean correctness.
        correct_ratio_by_task: ratio of the mean correctness to that of the first arm.
    """

    name: str
    tokens_per_request: float
    joules_per_request: float
    grams_per_request: float
    seconds_per_request: float
    share: dict[str, float]
    joules_ratio: Interval
    grams_ratio: Interval
    correct_by_task: dict[str, float]
    correct_ratio_by_task: dict[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Arms that answered the same n requests at the same times.

    Attributes:
        arms: results, the baseline first.
        summaries: summary of each arm.
        times: send times, Unix seconds, shape (n,).
        trace: carbon intensity.
        floors: quality floor by task, relative to the first arm.
    """

    arms: tuple[Arm, ...]
    summaries: tuple[ArmSummary, ...]
    times: Float64Array
    trace: IntensityTrace
    floors: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the summaries as JSON-serialisable values."""
        methods = {
            s.name: {
                "mean_completion_tokens": s.tokens_per_request,
                "joules_per_request": s.joules_per_request,
                "grams_per_request": s.grams_per_request,
                "mean_latency_seconds": s.seconds_per_request,
                "directive_share": s.share,
                "joules_ratio": s.joules_ratio.to_json(),
                "grams_ratio": s.grams_ratio.to_json(),
                "correct_ratio_by_task": {
                    task: ratio.to_json() for task, ratio in s.correct_ratio_by_task.items()
                },
            }
            for s in self.summaries
        }
        first = self.arms[0]
        return {
            "schema": 1,
            "energy_method": first.energy_method,
            "energy_source": first.energy_source,
            "baseline": first.name,
            "floors": dict(self.floors),
            "methods": methods,
        }


def compare(
    requests: Sequence[Request],
    arms: Sequence[Arm],
    times: Float64Array,
    trace: IntensityTrace,
    floors: Mapping[str, float],
) -> Comparison:
    """Summarise the arms, with ratios to the first one paired by request."""
    tasks = np.array([request.task for request in requests])
    summaries = tuple(_summary(arm, arms[0], tasks) for arm in arms)
    return Comparison(tuple(arms), summaries, times, trace, floors)


def _summary(arm: Arm, base: Arm, tasks: Any) -> ArmSummary:
    names, counts = np.unique(arm.directives, return_counts=True)
    return ArmSummary(
        arm.name,
        float(arm.tokens.mean()),
        float(arm.joules.mean()),
        float(arm.grams.mean()),
        float(arm.seconds.mean()),
        {str(n): float(c) / len(tasks) for n, c in zip(names, counts, strict=True)},
        ratio_of_means(arm.joules, base.joules),
        ratio_of_means(arm.grams, base.grams),
        {str(t): float(arm.correct[tasks == t].mean()) for t in np.unique(tasks)},
        {
            str(t): ratio_of_means(arm.correct[tasks == t], base.correct[tasks == t])
            for t in np.unique(tasks)
        },
    )


LEVELS = "L0: no directive; L1: brief, L2: very_brief (`Always answer very briefly.`)"


def rows(result: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and body of the comparison table as text, for the terminal and the page."""
    arms = result.summaries
    lines = {
        "generated tokens": [f"{s.tokens_per_request:.1f}" for s in arms],
        f"joules ({result.arms[0].energy_method})": [f"{s.joules_per_request:.3f}" for s in arms],
        "mgCO2e": [f"{1000 * s.grams_per_request:.4f}" for s in arms],
        "  per 1,000 generated tokens": [_rate(arm, "1k_generated_tokens") for arm in result.arms],
        "  per correct answer": [_rate(arm, "correct_answer") for arm in result.arms],
        "seconds": [f"{s.seconds_per_request:.3f}" for s in arms],
        "joules against L0": [_percent(s.joules_ratio) for s in arms],
        "carbon against L0": [_percent(s.grams_ratio) for s in arms],
    }
    for task in arms[0].correct_by_task:
        lines[f"correct, {task}"] = [f"{s.correct_by_task[task]:.2f}" for s in arms]
        lines[f"  vs L0, {task}"] = [_interval(s.correct_ratio_by_task[task]) for s in arms]
    body = [[name, *cells] for name, cells in lines.items()]
    return ["mean per request", *(s.name for s in arms)], body


def _rate(arm: Arm, unit: str) -> str:
    """Return the mgCO2e per functional unit as text."""
    sums = float(arm.grams.sum()), len(arm.grams), float(arm.tokens.sum())
    grams = per_functional_unit(*sums, float(np.nansum(arm.correct))).get(f"grams_per_{unit}")
    return "none" if grams is None else f"{1000 * grams:.4f}"


def show(result: Comparison, console: Console) -> None:
    """Print the table, and notes on floors, energy and the policy's choices."""
    header, body = rows(result)
    table = Table(*header, title=f"the same {len(result.times)} requests; 95% intervals")
    for line in body:
        table.add_row(*line)
    console.print(table)
    floors = ", ".join(f"{task} {floor:g}" for task, floor in result.floors.items())
    for note in (
        LEVELS,
        f"quality floors, relative to L0: {floors}",
        f"energy: {result.arms[0].energy_source}; intensity: zone {result.trace.zone}",
        f"the policy chose: {_shares(result.summaries[-1].share)}",
    ):
        console.print(note)


def write_report(result: Comparison, folder: Path) -> Path:
    """Write `demo.png` and `report.html` to `folder`; return the path of the page."""
    picture = folder / "demo.png"
    _draw(result, picture)
    header, body = rows(result)
    environment = Environment(
        loader=PackageLoader("experiments.demo", "."),
        autoescape=select_autoescape(("html", "jinja")),
    )
    page = folder / "report.html"
    page.write_text(
        environment.get_template("report.html.jinja").render(
            header=header,
            body=body,
            count=len(result.times),
            source=result.arms[0].energy_source,
            method=result.arms[0].energy_method,
            zone=result.trace.zone,
            floors=dict(result.floors),
            levels=LEVELS,
            share=_shares(result.summaries[-1].share),
            picture=base64.b64encode(picture.read_bytes()).decode(),
        ),
        encoding="utf-8",
    )
    return page


def _draw(result: Comparison, path: Path) -> None:
    hours = (result.times - result.times[0]) / HOUR_SECONDS
    edges = np.arange(0, 25, 1.0)
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(9, 8), sharex=True)
    top.stairs(result.trace.at(result.times[0] + HOUR_SECONDS * edges[:-1]), edges, color="0.3")
    top.set_ylabel("gCO2e/kWh")
    top.set_title(f"a day of zone {result.trace.zone}", loc="left")
    for arm, color in zip(result.arms, ("0.55", "tab:orange", "tab:green"), strict=False):
        grams, _ = np.histogram(hours, bins=edges, weights=1000 * arm.grams)
        middle.stairs(grams, edges, label=arm.name, linewidth=1.8, color=color)
    middle.set_ylabel("mgCO2e per hour")
    _legend(middle)
    directives = np.array(result.arms[-1].directives)
    names = list(dict.fromkeys(["none", *sorted(result.arms[-1].directives, key=len)]))
    shades = plt.get_cmap("Greens")(np.linspace(0.25, 0.85, len(names)))
    bottoms = np.zeros(len(edges) - 1)
    for name, shade in zip(names, shades, strict=True):
        count, _ = np.histogram(hours[directives == name], bins=edges)
        bottom.bar(edges[:-1], count, 1.0, bottom=bottoms, align="edge", label=name, color=shade)
        bottoms += count
    bottom.set_ylabel("requests by directive")
    bottom.set_xlabel("hour of the day (UTC)")
    bottom.set_xlim(0, 24)
    _legend(bottom)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98))


def _interval(ratio: Interval) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f} {ratio.high:.2f}]"


def _percent(ratio: Interval) -> str:
    change, low, high = (100 * (x - 1) for x in (ratio.value, ratio.low, ratio.high))
    return f"{change:+.1f}% [{low:+.0f} {high:+.0f}]"


def _shares(share: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.0f}%" for name, value in share.items())
