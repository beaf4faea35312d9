"""`sprout demo`: the whole loop on the embedded Llama, in one command."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from pydantic import Field
from rich.console import Console

from agents.training.config import PpoConfig
from envs.carbon.csv_traces import synthetic_day
from envs.carbon.intensity import HOUR_SECONDS, IntensityTrace, iso
from envs.energy.meters.choose import choose_meter
from envs.errors import UpstreamError
from envs.live import LiveBackend
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.request import Request
from envs.requests.tasks import MODULES
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
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
# Seconds between requests: a day of requests passes in some twenty seconds.
GAP_SECONDS = 0.1
START_SECONDS = 0.7


class Demo(Settings):
    """Profile, train, serve and compare on the embedded Llama; a report lands in --out."""

    out: Path = Field(Path("runs/demo"), description="folder of the report")
    model: str = Field(str(EMBEDDED), description="folder with weights or Hugging Face name")
    per_task: int = Field(300, ge=20, description="profiled requests a task")
    requests: int = Field(200, ge=8, description="requests driven through the hook")
    replay_steps: int = Field(PpoConfig.replay_steps, ge=1, description="PPO steps on the replay")
    live_steps: int = Field(PpoConfig.live_steps, ge=0, description="PPO requests on the server")
    floor: str = Field("0.95", description="quality floor, or a YAML file of task: floor")
    seed: int = 0
    json_path: Path | None = Field(None, alias="json", description="also write the result here")

    def cli_cmd(self) -> None:
        """Run the loop and print the comparison."""
        console = Console()
        self.save(self.out)
        trace = synthetic_day()
        console.print("[bold]1/5[/] starting the embedded Llama")
        with llama_server(self.model, log=self.out / "llama.log") as server:
            try:
                result = self._loop(console, trace, server)
            except UpstreamError:
                # A dead server explains any failed request better than the request does.
                server.child.check(patience_seconds=1.0)
                raise
        show(result, console)
        page = write_report(result, self.out)
        write_json(self.json_path, result.to_json())
        console.print(f"report: {page}")

    def _loop(self, console: Console, trace: IntensityTrace, server: LlamaServer) -> Comparison:
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
        fresh = generate_requests(
            -(-self.requests // len(MODULES)), self.seed + 1, exclude=bundle.prompt_hashes
        )
        fresh = fresh[: self.requests]
        arms = self._arms(console, trace, server, fresh)
        return compare(fresh, arms, self._hours(trace), trace, floors)

    def _arms(
        self,
        console: Console,
        trace: IntensityTrace,
        server: LlamaServer,
        requests: Sequence[Request],
    ) -> list[Arm]:
        intensity = trace.at(self._hours(trace))

        def arm(name: str, url: str, action: int | None) -> Arm:
            """Drive through `url`; what the hook itself uses counts where it takes part."""
            meter = choose_meter(*dict.fromkeys((server.url, url)))
            directive = None if action is None else DEFAULT_CATALOGUE[action]
            target = Target(name, url, server.model, directive)
            return drive(target, requests, intensity, meter, GAP_SECONDS)

        length = timedelta(seconds=self.requests * GAP_SECONDS)
        console.print(f"[bold]4/5[/] the same requests straight to the server ({length} an arm)")
        arms = [arm("always L0", server.url, None), arm("always L2", server.url, 2)]
        console.print("[bold]5/5[/] the same requests through the hook")
        # The hook's clock starts with it, some START_SECONDS before the first request.
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
        """When each request is sent: evenly over the trace's last day."""
        return self._day_start(trace) + np.arange(self.requests) * DAY_SECONDS / self.requests
