"""`sprout bench gpu`: joules of Llama-2 shapes on this machine's own GPU, without their weights."""

import csv
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from pydantic import Field

from envs.carbon.hardware import Hardware, match_hardware
from envs.energy.attribution import Attribution
from envs.energy.meters.choose import choose_meter
from envs.energy.meters.flags import MeterFlags
from envs.errors import ConfigError
from envs.outcomes.profile_reader import read_profile
from experiments.bench.gpu_runs import (
    Cell,
    Questions,
    Server,
    lone_requests,
    measure,
    mixture,
    questions_of,
    train,
)
from experiments.llama.server import batching, llama_server
from experiments.record.calibrate import idle_watts, levels_of
from experiments.settings import Settings, write_json

mpl.use("Agg")
import matplotlib.pyplot as plt

ML_ENERGY = "mlenergy_energy_vs_batch.csv"
# The published model nearest to Llama-2-7B in size, on one H100 in half precision.
NEAREST = ("meta-llama/Llama-3.1-8B-Instruct", "H100", "bfloat16")
MIXED_AT_ONCE = 8


class GpuBench(MeterFlags, Settings):
    """Random weights of a Llama-2 shape, served with continuous batching; recorded lengths played.

    Random weights cost what real ones cost; what they say is of no use. Nobody else may use the
    GPU meanwhile.
    """

    shapes: str = Field("7b", description="7b, 13b, or tiny where there is no GPU; with commas")
    device: str = Field("cuda", description="cuda, or cpu")
    at_once: str = Field("1,8,32,128", description="requests in flight together")
    seconds: float = Field(15.0, ge=1, description="of each cell: a directive at a concurrency")
    idle_seconds: float = Field(15.0, ge=1, description="with the model loaded and no requests")
    window_seconds: float = Field(1.0, ge=0.1, description="between readings of the meter")
    train_seconds: float = Field(120.0, ge=0, description="of PPO on the live environment")
    lanes: int = Field(32, ge=1, description="requests in flight there")
    blocks: int = Field(2400, ge=64, description="of 32 tokens, for all requests in flight")
    outcomes: Path | None = Field(
        None, description="profile whose lengths are played; default SPROUT's published ones"
    )
    data: Path | None = Field(None, description=f"folder with {ML_ENERGY}, to compare with")
    out: Path = Field(Path("runs/gpu"), description="folder of the figures")
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Measure each shape, print, write."""
        levels, asked = levels_of(self.at_once), self._questions()
        result: dict[str, Any] = {
            "schema": 1,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": _machine(self.device),
            "shapes": {},
        }
        for shape in self.shapes.split(","):
            found = self._shape(shape, levels, asked)
            result["shapes"][shape] = found
            self.out.mkdir(parents=True, exist_ok=True)
            _draw(self.out / f"gpu-{shape}.png", shape, found)
            # What is known so far outlives what may still fail.
            write_json(self.out / "gpu.json", result)
        write_json(self.json_path, result)
        print(f"in {self.out}: gpu.json and a figure a shape")

    def _questions(self) -> Questions:
        if self.outcomes is None:
            return questions_of()
        profile = read_profile(self.outcomes)
        columns = {
            name: (
                profile.outcomes.prompt_tokens[:, i].tolist(),
                profile.outcomes.completion_tokens[:, i].tolist(),
            )
            for i, name in enumerate(profile.directives)
        }
        return questions_of(columns)

    def _shape(self, shape: str, levels: list[int], asked: Questions) -> dict[str, Any]:
        from experiments.llama.random_weights import random_llama

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"random-{shape}"
            weights = random_llama(shape, path, self.device)
            print(f"{shape}: {weights / 1e9:.1f} GB of random weights", flush=True)
            with llama_server(
                path, device=self.device, batched=batching(self.blocks, 4096)
            ) as served:
                meter = choose_meter(served.url, wanted=self.wanted())
                idle = idle_watts(meter, self.idle_seconds, self.window_seconds)
                # Idle power under work is the requests' as well: batches share it.
                attribution = Attribution("shared", idle_watts=idle, fit_seconds=4.0)
                server = Server(served.url, served.model, meter, attribution, self.window_seconds)
                print(f"{meter.source}; idle {idle:.1f} W with the model loaded", flush=True)
                return self._measured(server, levels, asked, weights)

    def _measured(
        self, server: Server, levels: list[int], asked: Questions, weights: int
    ) -> dict[str, Any]:
        first = next(iter(asked))
        # Kernels are chosen and caches made in the first answers.
        measure(server, first, asked[first], levels[-1], 3.0)
        cells: list[Cell] = []
        for count in levels:
            for name, questions in asked.items():
                cells.append(measure(server, name, questions, count, self.seconds))
                print(_line(cells[-1], cells), flush=True)
        pure = {
            c.directive: c.joules_per_request for c in cells if c.at_once == _mixed_level(levels)
        }
        ends = {name: asked[name] for name in (first, list(asked)[-1])}
        lone = lone_requests(server, [q for questions in ends.values() for q in questions[::3]])
        mixed = mixture(server, ends, _mixed_level(levels), 2 * self.seconds, pure)
        print(f"one by one: shares against windows of their own: {lone}", flush=True)
        print(f"{_mixed_level(levels)} at once, {' and '.join(ends)} mixed: {mixed}", flush=True)
        device = match_hardware(server.meter.devices[0]) if server.meter.devices else None
        found: dict[str, Any] = {
            "meter": {
                "source": server.meter.source,
                "method": server.meter.method,
                "devices": server.meter.devices,
                "error_ratio": server.meter.error_ratio,
            },
            "weights_bytes": weights,
            "idle_watts": server.attribution.idle_watts,
            "cells": [asdict(cell) for cell in cells],
            "savings_pct": savings(cells),
            "alone": lone,
            "mixture": mixed,
            "bandwidth_floor": floor(cells, weights, device),
            "ml_energy": self._published(),
        }
        if self.train_seconds > 0:
            found["train"] = train(server, self.train_seconds, self.lanes)
            print(f"PPO on the live environment: {found['train']}", flush=True)
        return found

    def _published(self) -> dict[str, float]:
        """J a generated token by batch, of the nearest published model; empty without the file."""
        if self.data is None:
            return {}
        path = self.data / ML_ENERGY
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            mine = [r for r in rows if (r["model"], r["gpu"], r["precision"]) == NEAREST]
            return {r["max_num_seqs"]: float(r["j_per_token"]) for r in mine}
        except (OSError, KeyError, ValueError) as error:
            raise ConfigError(f"--data {self.data}: {path.name}: {error}") from error


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


def _mixed_level(levels: list[int]) -> int:
    return min(levels, key=lambda level: abs(level - MIXED_AT_ONCE))


def _line(cell: Cell, cells: list[Cell]) -> str:
    base = next(c for c in cells if c.at_once == cell.at_once)
    saved = 100 * (1 - cell.joules_per_request / base.joules_per_request)
    return (
        f"{cell.at_once:>4} at once, {cell.directive:<11}{cell.requests:>6} requests: "
        f"{cell.joules_per_request:9.3f} J each ({saved:5.1f} % saved), "
        f"{cell.joules_per_token:8.4f} J a token, {cell.tokens_per_second:8.1f} tokens/s, "
        f"{cell.watts:6.1f} W, sum off {cell.off:.0e}"
    )


def _machine(device: str) -> dict[str, Any]:
    import torch
    import transformers

    found: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    if device == "cuda" and torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
        try:
            driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
            found["driver"] = driver.splitlines()[0]
        except OSError:
            found["driver"] = "unknown"
    return found


def _draw(path: Path, shape: str, found: dict[str, Any]) -> None:
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
