"""Results of `sprout bench gpu`: savings, a lower bound, the published curve, the figure."""

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
# The published model nearest in size to Llama-2-7B: model, GPU and precision.
NEAREST = ("meta-llama/Llama-3.1-8B-Instruct", "H100", "bfloat16")


def savings(cells: list[Cell]) -> dict[str, dict[str, float]]:
    """Return the joules per request that each directive saves, in percent of the first one's.

    Returns:
        Savings by directive, then by number of requests at once.
    """
    base = {c.at_once: c.joules_per_request for c in cells if c.directive == cells[0].directive}
    by_directive: dict[str, dict[str, float]] = {}
    for cell in cells:
        if cell.directive != cells[0].directive:
            saved = 100 * (1 - cell.joules_per_request / base[cell.at_once])
            by_directive.setdefault(cell.directive, {})[str(cell.at_once)] = saved
    return by_directive


def floor(cells: list[Cell], weights: int, device: Hardware | None) -> dict[str, float]:
    """Return a lower bound of J per token by number of requests at once.

    The bound assumes that a pass only reads the weights once: bytes of weights / memory
    bandwidth x measured power / requests in the pass. It is empty for an unknown device.

    Args:
        weights: size of the weights, bytes.
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
    """Return J per generated token by batch size of the nearest published model.

    Args:
        folder: folder with the published data; None returns an empty curve.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    if folder is None:
        return {}
    path = folder / ML_ENERGY
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        nearest = [r for r in rows if (r["model"], r["gpu"], r["precision"]) == NEAREST]
        return {r["max_num_seqs"]: float(r["j_per_token"]) for r in nearest}
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"--data {folder}: cannot read {path.name}: {error}") from error


def line(cell: Cell, cells: list[Cell]) -> str:
    """Return a one-line summary of a cell, with its saving against the first directive."""
    base = next(c for c in cells if c.at_once == cell.at_once)
    saved = 100 * (1 - cell.joules_per_request / base.joules_per_request)
    return (
        f"{cell.at_once:>4} at once, {cell.directive:<11}{cell.requests:>6} requests, "
        f"{cell.cut:>3} cut off: {cell.joules_per_request:9.3f} J/request ({saved:5.1f} % saved), "
        f"{cell.joules_per_token:8.4f} J/token, {cell.tokens_per_second:8.1f} tokens/s, "
        f"{cell.watts:6.1f} W, unattributed {cell.off:.0e}"
    )


def draw(path: Path, shape: str, result: dict[str, Any]) -> None:
    """Draw J per token and J per request by number of requests at once.

    Args:
        path: image file to write.
        result: figures of one shape, as `gpu.json` holds them.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = list(dict.fromkeys(cell["directive"] for cell in result["cells"]))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        cells = [cell for cell in result["cells"] if cell["directive"] == name]
        levels = [cell["at_once"] for cell in cells]
        left.plot(levels, [cell["joules_per_token"] for cell in cells], marker="o", label=name)
        positions = np.arange(len(levels)) + (i - (len(names) - 1) / 2) * width
        right.bar(positions, [cell["joules_per_request"] for cell in cells], width, label=name)
        right.set_xticks(range(len(levels)), [str(level) for level in levels])
    for key, label in (
        ("bandwidth_floor", "lower bound: reading the weights"),
        ("ml_energy", "published: Llama-3.1-8B on an H100, vLLM"),
    ):
        if curve := result[key]:
            left.plot([int(b) for b in curve], list(curve.values()), linestyle="--", label=label)
    left.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="J per generated token")
    right.set(yscale="log", xlabel="requests at once", ylabel="J per request")
    left.set_title(f"Llama-2 {shape} shape, {', '.join(dict.fromkeys(result['meter']['devices']))}")
    right.set_title(f"idle power included; {result['meter']['method']}")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
