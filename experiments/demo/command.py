"""`sprout demo`: the whole closed loop on the embedded Llama, in one command."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from pydantic import Field
from rich.console import Console

from agents.training.config import PpoConfig
from envs.backends.live import LiveBackend
from envs.carbon.csv_traces import synthetic_day
from envs.carbon.intensity import HOUR_SECONDS, IntensityTrace, iso
from envs.energy.meters.choose import choose_meter
from envs.errors import UpstreamError
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.request import Request
from envs.requests.tasks import MODULES
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.console import table_console
from experiments.demo.drive import Arm, Target, drive
from experiments.demo.report import Comparison, compare, show, write_report
from experiments.hook_process import start_hook
from experiments.llama.server import EMBEDDED, LlamaServer, llama_server
from experiments.record.profile import record
from experiments.settings import Settings, floors_by_task, write_json
from experiments.tracking import tracked
from experiments.train.command import report
from experiments.train.job import TrainingJob

DAY_SECONDS = 24 * HOUR_SECONDS
# Seconds between requests: with the default 200 requests, a day passes in twenty seconds.
GAP_SECONDS = 0.1
# Expected time from the start of the hook to the first request, s.
START_SECONDS = 0.7


class Demo(Settings):
    """Profile, train, serve and compare on the embedded Llama; write a report to --out."""

    out: Path = Field(Path("runs/demo"), description="folder of the report")
    model: str = Field(str(EMBEDDED), description="folder with weights or Hugging Face name")
    per_task: int = Field(300, ge=20, description="profiled requests per task")
    requests: int = Field(200, ge=8, description="requests sent to each arm of the comparison")
    replay_steps: int = Field(PpoConfig.replay_steps, ge=1, description="PPO steps on the replay")
    live_steps: int = Field(
        PpoConfig.live_steps, ge=0, description="PPO requests on the live server"
    )
    floor: str = Field("0.95", description="quality floor, or a YAML file of task: floor")
    seed: int = 0
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Run the loop, print the comparison and write the report."""
        console = table_console()
        self.save(self.out)
        trace = synthetic_day()
        console.print("[bold]1/5[/] starting the embedded Llama")
        with llama_server(self.model, log=self.out / "llama.log") as server:
            try:
                result = self._loop(console, trace, server)
            except UpstreamError:
                # If the server has died, its own error explains more than the failed request.
                server.child.check(patience_seconds=1.0)
                raise
        show(result, console)
        report_path = write_report(result, self.out)
        write_json(self.json_path, result.to_json())
        console.print(f"report: {report_path}")

    def _loop(self, console: Console, trace: IntensityTrace, server: LlamaServer) -> Comparison:
        """Profile, train, then compare the arms on new requests."""
        requests = generate_requests(self.per_task, self.seed)
        with Upstream(server.url, server.model) as upstream:
            meter = choose_meter(server.url)
            console.print(f"[bold]2/5[/] profiling {len(requests)} requests under 3 directives")
            backend = LiveBackend(upstream, meter, DEFAULT_CATALOGUE, requests)
            (self.out / "profile.parquet.partial").unlink(missing_ok=True)
            path = self.out / "profile.parquet"
            profile = record(backend, DEFAULT_CATALOGUE, server.model, path)
            console.print("[bold]3/5[/] training PPO on the replay, then on the live server")
            config = PpoConfig(
                replay_steps=self.replay_steps, live_steps=self.live_steps, seed=self.seed
            )
            floors = floors_by_task(self.floor, profile.tasks)
            job = TrainingJob(profile, DEFAULT_CATALOGUE, trace, floors, config)
            with tracked(self.model_dump(mode="json"), self.out / "tracking", "demo") as run:
                bundle, trained = job.run(self.out / "bundle", run, upstream)
            report(bundle, trained)
        new_requests = generate_requests(
            -(-self.requests // len(MODULES)), self.seed + 1, exclude=bundle.prompt_hashes
        )
        new_requests = new_requests[: self.requests]
        arms = self._arms(console, trace, server, new_requests)
        return compare(new_requests, arms, self._hours(trace), trace, floors)

    def _arms(
        self,
        console: Console,
        trace: IntensityTrace,
        server: LlamaServer,
        requests: Sequence[Request],
    ) -> list[Arm]:
        """Send the requests to the server under L0 and L2, then through the hook."""
        intensity = trace.at(self._hours(trace))

        def arm(name: str, url: str, action: int | None) -> Arm:
            """Send the requests to `url`; the meter includes the hook's energy if it takes part."""
            meter = choose_meter(*dict.fromkeys((server.url, url)))
            directive = None if action is None else DEFAULT_CATALOGUE[action]
            target = Target(name, url, server.model, directive)
            return drive(target, requests, intensity, meter, GAP_SECONDS)

        length = timedelta(seconds=self.requests * GAP_SECONDS)
        console.print(f"[bold]4/5[/] the same requests straight to the server ({length} per arm)")
        arms = [arm("always L0", server.url, None), arm("always L2", server.url, 2)]
        console.print("[bold]5/5[/] the same requests through the hook")
        # The hook's clock starts with the hook, about START_SECONDS before the first request.
        speed = DAY_SECONDS / (self.requests * GAP_SECONDS)
        start = self._day_start(trace) - START_SECONDS * speed
        flags = [
            *("--clock-start", iso(max(start, trace.start))),
            *("--clock-speed", str(speed)),
            *("--seed", str(self.seed)),
        ]
        log = self.out / "hook.log"
        with start_hook(server.url, self.out / "bundle", flags, log) as gateway:
            arms.append(arm("policy", gateway.url, None))
        return arms

    def _day_start(self, trace: IntensityTrace) -> float:
        return trace.end - DAY_SECONDS

    def _hours(self, trace: IntensityTrace) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Send time of each request, Unix seconds, shape (n,): even over the trace's last day."""
        return self._day_start(trace) + np.arange(self.requests) * DAY_SECONDS / self.requests
