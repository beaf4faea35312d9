"""What `sprout bench gpu` makes of its cells: savings, the published curve, lines, a figure."""

import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from envs.carbon.hardware import Hardware
from envs.errors import ConfigError
from experiments.bench.gpu.runs import Cell

mpl.use("Agg")
import matplotlib.pyplot as plt

ML_ENERGY = "mlenergy_energy_vs_batch.csv"
# The published model nearest to Llama-2-7B in size, on one H100 in half precision.
NEAREST = ("meta-llama/Llama-3.1-8B-Instruct", "H100", "bfloat16")


def savings(cells: list[Cell]) -> dict[str, dict[str, float]]:
    """Percent of the first directive's joules a request that each other one saves, by level."""
    base = {c.at_once: c.joules_per_request for c in cells if c.directive == cells[0].directive}
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        if cell.directive != cells[0].directive:
            saved = 100 * (1 - cell.joules_per_request / base[cell.at_once])
            found.setdefault(cell.directive, {})[str(cell.at_once)] = saved
    return found


def floor(cells: list[Cell], weights: int, device: Hardware | None) -> dict[str, float]:
    """J a token by level, if nothing were done but reading the weights once a pass.

    bytes of weights / memory bandwidth x the power that was measured, over the requests of a pass.
    """
    if device is None:
        return {}
    seconds = weights / (device.bandwidth_gb_per_s * 1e9)
    return {
        str(c.at_once): seconds * c.watts / c.at_once
        for c in cells
        if c.directive == cells[0].directive
    }


def published(folder: Path | None) -> dict[str, float]:
    """J a generated token by batch, of the nearest published model; empty without a folder.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    if folder is None:
        return {}
    path = folder / ML_ENERGY
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        mine = [r for r in rows if (r["model"], r["gpu"], r["precision"]) == NEAREST]
        return {r["max_num_seqs"]: float(r["j_per_token"]) for r in mine}
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"--data {folder}: {path.name}: {error}") from error


def line(cell: Cell, cells: list[Cell]) -> str:
    """A cell in words."""
    base = next(c for c in cells if c.at_once == cell.at_once)
    saved = 100 * (1 - cell.joules_per_request / base.joules_per_request)
    return (
        f"{cell.at_once:>4} at once, {cell.directive:<11}{cell.requests:>6} requests, "
        f"{cell.cut:>3} cut: {cell.joules_per_request:9.3f} J each ({saved:5.1f} % saved), "
        f"{cell.joules_per_token:8.4f} J a token, {cell.tokens_per_second:8.1f} tokens/s, "
        f"{cell.watts:6.1f} W, sum off {cell.off:.0e}"
    )


def draw(path: Path, shape: str, found: dict[str, Any]) -> None:
    """J a token and J a request, by requests at once."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = list(dict.fromkeys(cell["directive"] for cell in found["cells"]))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        some = [cell for cell in found["cells"] if cell["directive"] == name]
        levels = [cell["at_once"] for cell in some]
        left.plot(levels, [cell["joules_per_token"] for cell in some], marker="o", label=name)
        places = np.arange(len(levels)) + (i - (len(names) - 1) / 2) * width
        right.bar(places, [cell["joules_per_request"] for cell in some], width, label=name)
        right.set_xticks(range(len(levels)), [str(level) for level in levels])
    for key, label in (
        ("bandwidth_floor", "reading the weights alone"),
        ("ml_energy", "published: Llama-3.1-8B on an H100, vLLM"),
    ):
        if curve := found[key]:
            left.plot([int(b) for b in curve], list(curve.values()), linestyle="--", label=label)
    left.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="J a generated token")
    right.set(yscale="log", xlabel="requests at once", ylabel="J a request")
    left.set_title(f"Llama-2 {shape} shape, {', '.join(dict.fromkeys(found['meter']['devices']))}")
    right.set_title(f"idle power included; {found['meter']['method']}")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
