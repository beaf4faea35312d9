"""`sprout bench watch`: what watching quality costs a worker, by paired and interleaved rounds."""

import math
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydantic import Field

from agents.policy.bundle import load_bundle
from experiments.bench import load
from experiments.bench.canned import canned
from experiments.hook_process import start_hook
from experiments.processes import ChildProcess
from experiments.settings import Settings, write_json
from experiments.statistics import mean_of_runs


class WatchBench(Settings):
    """Measure a worker's processor time and latency with the guard and the evaluator, and without.

    Both gateways run side by side in front of the same canned server. Each round sends the same
    number of requests to both, one after the other, in an order that alternates.
    """

    policy: Path = Field(description="policy bundle")
    rounds: int = Field(60, ge=5, description="rounds; each measures both gateways")
    seconds: float = Field(1.0, gt=0, description="length of each measurement")
    rate: float = Field(200.0, gt=0, description="requests/s")
    sample: float = Field(0.02, ge=0, le=1, description="share of the requests that is judged")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Measure, print the ratios with their intervals, and write the JSON result."""
        model = load_bundle(self.policy).model
        with ExitStack() as stack:
            upstream = stack.enter_context(canned())
            clock = ("--clock-start", "2024-01-02T00:00")
            judge = ("--judge", upstream.url, "--judge-model", "canned")
            watching = (*judge, "--sample", str(self.sample), "--judge-delay", "0")
            gateways = {
                "without": stack.enter_context(start_hook(upstream.url, self.policy, clock)),
                "with": stack.enter_context(
                    start_hook(upstream.url, self.policy, (*clock, *watching))
                ),
            }
            workers = {name: _worker(gateway) for name, gateway in gateways.items()}
            rounds: list[dict[str, tuple[float, float]]] = []
            # The first round opens connections, and runs what only first requests need.
            for number in range(self.rounds + 1):
                names = list(gateways)[:: 1 if number % 2 else -1]
                rounds.append(
                    {name: self._round(gateways[name], workers[name], model) for name in names}
                )
        result = {
            "cpu": _ratios([[each[n][0] for n in ("with", "without")] for each in rounds[1:]]),
            "latency": _ratios([[each[n][1] for n in ("with", "without")] for each in rounds[1:]]),
        }
        for name, figures in result.items():
            what = {"cpu": "processor time per request", "latency": "median latency"}[name]
            low, high = figures["ci95"] or (math.nan, math.nan)
            print(
                f"{what}, with / without: {figures['value']:.3f} [{low:.3f}, {high:.3f}]; without "
                f"{1e3 * figures['without']:.3f} ms, {self.rounds} rounds"
            )
        settings = self.model_dump(mode="json", exclude={"json_path", "config"})
        write_json(self.json_path, {"schema": 1, "settings": settings, **result})

    def _round(
        self, gateway: ChildProcess, worker: psutil.Process, model: str
    ) -> tuple[float, float]:
        """Return the worker's processor time per request, and the median latency, both in s."""
        before = _seconds(worker)
        measured = load.run(gateway.url, load.chats(gateway.url, model), 8, self.seconds, self.rate)
        return (
            (_seconds(worker) - before) / len(measured.latencies),
            statistics.median(measured.latencies.tolist()),
        )


def _worker(gateway: ChildProcess) -> psutil.Process:
    """Return the process of a gateway's only worker: the child that uses most memory."""
    children = psutil.Process(gateway.process.pid).children()
    return max(children, key=lambda child: child.memory_info().rss)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _ratios(pairs: list[list[float]]) -> dict[str, Any]:
    """Return the mean of the rounds' ratios with its 95 % interval, and the mean without."""
    ratios = np.array([a / b for a, b in pairs])
    return {
        **mean_of_runs(ratios).to_json(),
        "rounds": ratios.tolist(),
        "without": statistics.mean(b for _, b in pairs),
    }
