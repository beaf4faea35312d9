"""`sprout bench gpu`: joules of Llama-2 models with random weights on this machine's GPU."""

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

# The mixture runs at the measured level nearest to this number of requests at once.
MIXED_AT_ONCE = 8
WARM_SECONDS = 5.0
# Most rows of a profile that are played, and questions per directive that are sent one by one.
MOST_ROWS, MOST_ALONE = 200, 4
# Adds results of a phase to those of the shape and writes them.
Keep = Callable[[dict[str, Any]], None]


class GpuBench(MeterFlags, Settings):
    """Play recorded lengths on Llama-2 models with random weights and continuous batching.

    Random weights cost the same energy as trained ones; their answers are meaningless. Nothing
    else may use the GPU during the run. The results of each phase are written when it ends.
    """

    shapes: str = Field("7b", description="7b, 13b, or tiny without a GPU; separated by commas")
    device: str = Field("cuda", description="cuda, or cpu")
    at_once: str = Field(
        "1,8,32,128", description="numbers of requests in flight, separated by commas"
    )
    seconds: float = Field(
        15.0,
        ge=1,
        description="length of each cell (one directive at one number of requests in flight); "
        "lone requests and the mixture take twice as long",
    )
    idle_seconds: float = Field(
        15.0,
        ge=1,
        description="length of the idle measurement, with the model loaded and no requests",
    )
    window_seconds: float = Field(1.0, ge=0.1, description="time between readings of the meter")
    train_seconds: float = Field(
        120.0, ge=0, description="length of PPO on the live environment; 0 skips it"
    )
    lanes: int = Field(32, ge=1, description="requests in flight during PPO")
    blocks: int = Field(
        2400, ge=64, description="cache blocks of 32 tokens for all requests in flight"
    )
    outcomes: Path | None = Field(
        None,
        description=f"profile whose lengths are played, at most {MOST_ROWS} rows, evenly spread; "
        "default SPROUT's published lengths",
    )
    data: Path | None = Field(None, description=f"folder with {ML_ENERGY}, for comparison")
    out: Path = Field(Path("runs/gpu"), description="folder to write the results to")
    json_path: Path | None = Field(
        None, alias="json", description="also write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Measure each shape; write the results of each phase and one figure per shape."""
        levels, questions, curve = levels_of(self.at_once), self._questions(), published(self.data)
        result: dict[str, Any] = {
            "schema": 1,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": _machine(self.device),
            "shapes": {},
        }
        self.out.mkdir(parents=True, exist_ok=True)
        for shape in self.shapes.split(","):
            shape_result = result["shapes"][shape] = {"ml_energy": curve}

            def keep(
                phase_result: dict[str, Any], shape_result: dict[str, Any] = shape_result
            ) -> None:
                """Write each result at once, so that a later failure does not lose it."""
                shape_result.update(phase_result)
                self._write(result)

            self._measure_shape(shape, levels, questions, keep)
            draw(self.out / f"gpu-{shape}.png", shape, shape_result)
        print(f"in {self.out}: gpu.json and one figure per shape")

    def _write(self, result: dict[str, Any]) -> None:
        """Replace gpu.json in one step, so that an interruption leaves a complete file."""
        draft = self.out / "gpu.json.new"
        write_json(draft, result)
        draft.replace(self.out / "gpu.json")
        write_json(self.json_path, result)

    def _questions(self) -> Questions:
        """Return the questions to play: the profile's lengths, or the published ones."""
        if self.outcomes is None:
            return questions_of()
        profile = read_profile(self.outcomes)
        prompt, completion = profile.outcomes.prompt_tokens, profile.outcomes.completion_tokens
        columns = {
            name: (prompt[:, i].tolist(), completion[:, i].tolist())
            for i, name in enumerate(profile.directives)
        }
        return spread(questions_of(columns), MOST_ROWS)

    def _measure_shape(
        self, shape: str, levels: list[int], questions: Questions, keep: Keep
    ) -> None:
        """Write a random model, serve it and run all phases on it."""
        from experiments.llama.random_weights import random_llama

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"random-{shape}"
            weights = random_llama(shape, path, self.device)
            print(f"{shape}: {weights / 1e9:.1f} GB of random weights", flush=True)
            with llama_server(
                path, device=self.device, batched=batching(self.blocks, 4096)
            ) as llama:
                meter = choose_meter(llama.url, wanted=self.wanted())
                idle = idle_watts(meter, self.idle_seconds, self.window_seconds)
                # "shared": requests also bear the idle power of the time in which they run.
                attribution = Attribution("shared", idle_watts=idle, fit_seconds=4.0)
                server = Server(llama.url, llama.model, meter, attribution, self.window_seconds)
                print(f"{meter.source}; idle {idle:.1f} W with the model loaded", flush=True)
                keep({"meter": _meter(server), "weights_bytes": weights, "idle_watts": idle})
                self._run_phases(server, levels, questions, weights, keep)

    def _run_phases(
        self, server: Server, levels: list[int], questions: Questions, weights: int, keep: Keep
    ) -> None:
        """Measure the cells, lone requests, a mixture of two directives, and PPO."""
        cells = self._cells(server, levels, questions, weights, keep)
        level = _mixed_level(levels)
        pure = {c.directive: c.joules_per_request for c in cells if c.at_once == level}
        names = list(questions)
        extremes = {name: questions[name] for name in (names[0], names[-1])}
        selected = spread(extremes, MOST_ALONE)
        # The directives alternate, so that both are covered if the time runs out.
        lone = [question for pair in zip(*selected.values(), strict=True) for question in pair]
        _announce(f"{len(lone)} requests one by one", 2 * self.seconds)
        lone_result = lone_requests(server, lone, 2 * self.seconds)
        keep({"alone": lone_result})
        print(f"one by one: shares against a window per request: {lone_result}", flush=True)
        _announce(f"{level} at once, {' and '.join(extremes)} mixed", 2 * self.seconds)
        mixed = mixture(server, extremes, level, 2 * self.seconds, pure)
        keep({"mixture": mixed})
        print(f"{level} at once, {' and '.join(extremes)} mixed: {mixed}", flush=True)
        if self.train_seconds > 0:
            _announce("PPO on the live environment", self.train_seconds, " and one step")
            trained = train(server, self.train_seconds, self.lanes)
            keep({"train": trained})
            print(f"PPO on the live environment: {trained}", flush=True)

    def _cells(
        self, server: Server, levels: list[int], questions: Questions, weights: int, keep: Keep
    ) -> list[Cell]:
        """Measure every directive at every number of requests in flight."""
        device = match_hardware(server.meter.devices[0]) if server.meter.devices else None
        first = next(iter(questions))
        # The first answers are slow, because the server selects kernels and fills caches.
        measure(server, first, questions[first], levels[-1], WARM_SECONDS)
        cells: list[Cell] = []
        count = len(levels) * len(questions)
        _announce(f"{count} cells", count * self.seconds)
        for level in levels:
            for name, candidates in questions.items():
                cells.append(measure(server, name, candidates, level, self.seconds))
                print(line(cells[-1], cells), flush=True)
                keep(
                    {
                        "cells": [asdict(cell) for cell in cells],
                        "savings_pct": savings(cells),
                        "bandwidth_floor": floor(cells, weights, device),
                    }
                )
        return cells


def _announce(phase: str, seconds: float, suffix: str = "") -> None:
    print(f"{phase}: {seconds:.0f} s{suffix}", flush=True)


def _meter(server: Server) -> dict[str, Any]:
    meter = server.meter
    return {
        "source": meter.source,
        "method": meter.method,
        "devices": meter.devices,
        "error_ratio": meter.error_ratio,
    }


def _mixed_level(levels: list[int]) -> int:
    """Return the level nearest to `MIXED_AT_ONCE`."""
    return min(levels, key=lambda level: abs(level - MIXED_AT_ONCE))


def _machine(device: str) -> dict[str, Any]:
    """Return versions of torch and transformers, and the GPU's name and driver if one is used."""
    import torch
    import transformers

    machine: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    if device == "cuda" and torch.cuda.is_available():
        machine["device"] = torch.cuda.get_device_name()
        machine["cuda"] = torch.version.cuda
        try:
            driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
            machine["driver"] = driver.splitlines()[0]
        except OSError:
            machine["driver"] = "unknown"
    return machine
