"""`sprout bench gpu`: joules of Llama-2 shapes on this machine's own GPU, without their weights."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field

from envs.carbon.hardware import match_hardware
from envs.energy.attribution import Attribution
from envs.energy.meters.choose import choose_meter
from envs.energy.meters.flags import MeterFlags
from envs.outcomes.profile_reader import read_profile
from experiments.bench.gpu.figures import ML_ENERGY, draw, floor, line, published, savings
from experiments.bench.gpu.runs import (
    Cell,
    Questions,
    Server,
    lone_requests,
    measure,
    mixture,
    questions_of,
    spread,
)
from experiments.bench.gpu.train import train
from experiments.llama.server import batching, llama_server
from experiments.record.calibrate import idle_watts, levels_of
from experiments.settings import Settings, write_json

MIXED_AT_ONCE = 8
WARM_SECONDS = 5.0
# Rows of a profile that are played, and questions of a directive that are asked one by one.
MOST_ROWS, MOST_ALONE = 200, 4
Keep = Callable[[dict[str, Any]], None]


class GpuBench(MeterFlags, Settings):
    """Random weights of a Llama-2 shape, served with continuous batching; recorded lengths played.

    Random weights cost what real ones cost; what they say is of no use. Nobody else may use the
    GPU meanwhile. What a phase has found is written when it ends.
    """

    shapes: str = Field("7b", description="7b, 13b, or tiny where there is no GPU; with commas")
    device: str = Field("cuda", description="cuda, or cpu")
    at_once: str = Field("1,8,32,128", description="requests in flight together")
    seconds: float = Field(
        15.0,
        ge=1,
        description="of each cell: a directive at a concurrency; lone requests, and the mixture, "
        "have twice as long",
    )
    idle_seconds: float = Field(15.0, ge=1, description="with the model loaded and no requests")
    window_seconds: float = Field(1.0, ge=0.1, description="between readings of the meter")
    train_seconds: float = Field(120.0, ge=0, description="of PPO on the live environment")
    lanes: int = Field(32, ge=1, description="requests in flight there")
    blocks: int = Field(2400, ge=64, description="of 32 tokens, for all requests in flight")
    outcomes: Path | None = Field(
        None,
        description=f"profile of whose lengths up to {MOST_ROWS} rows are played, evenly spread; "
        "default SPROUT's published ones",
    )
    data: Path | None = Field(None, description=f"folder with {ML_ENERGY}, to compare with")
    out: Path = Field(Path("runs/gpu"), description="folder of the figures")
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Measure each shape, print, write."""
        levels, asked, curve = levels_of(self.at_once), self._questions(), published(self.data)
        result: dict[str, Any] = {
            "schema": 1,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": _machine(self.device),
            "shapes": {},
        }
        self.out.mkdir(parents=True, exist_ok=True)
        for shape in self.shapes.split(","):
            found = result["shapes"][shape] = {"ml_energy": curve}

            def keep(known: dict[str, Any], found: dict[str, Any] = found) -> None:
                """What is known so far outlives what may still fail, or be cut off."""
                found.update(known)
                self._write(result)

            self._shape(shape, levels, asked, keep)
            draw(self.out / f"gpu-{shape}.png", shape, found)
        print(f"in {self.out}: gpu.json and a figure a shape")

    def _write(self, result: dict[str, Any]) -> None:
        draft = self.out / "gpu.json.new"
        write_json(draft, result)
        draft.replace(self.out / "gpu.json")
        write_json(self.json_path, result)

    def _questions(self) -> Questions:
        if self.outcomes is None:
            return questions_of()
        profile = read_profile(self.outcomes)
        prompt, completion = profile.outcomes.prompt_tokens, profile.outcomes.completion_tokens
        columns = {
            name: (prompt[:, i].tolist(), completion[:, i].tolist())
            for i, name in enumerate(profile.directives)
        }
        return spread(questions_of(columns), MOST_ROWS)

    def _shape(self, shape: str, levels: list[int], asked: Questions, keep: Keep) -> None:
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
                keep({"meter": _meter(server), "weights_bytes": weights, "idle_watts": idle})
                self._measured(server, levels, asked, weights, keep)

    def _measured(
        self, server: Server, levels: list[int], asked: Questions, weights: int, keep: Keep
    ) -> None:
        cells = self._cells(server, levels, asked, weights, keep)
        level = _mixed_level(levels)
        pure = {c.directive: c.joules_per_request for c in cells if c.at_once == level}
        names = list(asked)
        ends = {name: asked[name] for name in (names[0], names[-1])}
        few = spread(ends, MOST_ALONE)
        # Directives by turns: should time run out, each has had its share.
        lone = [question for pair in zip(*few.values(), strict=True) for question in pair]
        _announce(f"{len(lone)} requests one by one", 2 * self.seconds)
        found = lone_requests(server, lone, 2 * self.seconds)
        keep({"lone_requests": found})
        print(f"one by one: shares against windows of their own: {found}", flush=True)
        _announce(f"{level} at once, {' and '.join(ends)} mixed", 2 * self.seconds)
        mixed = mixture(server, ends, level, 2 * self.seconds, pure)
        keep({"mixture": mixed})
        print(f"{level} at once, {' and '.join(ends)} mixed: {mixed}", flush=True)
        if self.train_seconds > 0:
            _announce("PPO on the live environment", self.train_seconds, " and a step")
            trained = train(server, self.train_seconds, self.lanes)
            keep({"train": trained})
            print(f"PPO on the live environment: {trained}", flush=True)

    def _cells(
        self, server: Server, levels: list[int], asked: Questions, weights: int, keep: Keep
    ) -> list[Cell]:
        device = match_hardware(server.meter.devices[0]) if server.meter.devices else None
        first = next(iter(asked))
        # Kernels are chosen and caches made in the first answers.
        measure(server, first, asked[first], levels[-1], WARM_SECONDS)
        cells: list[Cell] = []
        _announce(f"{len(levels) * len(asked)} cells", len(levels) * len(asked) * self.seconds)
        for count in levels:
            for name, questions in asked.items():
                cells.append(measure(server, name, questions, count, self.seconds))
                print(line(cells[-1], cells), flush=True)
                keep(
                    {
                        "cells": [asdict(cell) for cell in cells],
                        "savings_pct": savings(cells),
                        "bandwidth_floor": floor(cells, weights, device),
                    }
                )
        return cells


def _announce(phase: str, seconds: float, more: str = "") -> None:
    print(f"{phase}: {seconds:.0f} s{more}", flush=True)


def _meter(server: Server) -> dict[str, Any]:
    meter = server.meter
    return {
        "source": meter.source,
        "method": meter.method,
        "devices": meter.devices,
        "error_ratio": meter.error_ratio,
    }


def _mixed_level(levels: list[int]) -> int:
    return min(levels, key=lambda level: abs(level - MIXED_AT_ONCE))


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
