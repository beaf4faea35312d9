"""`sprout bench loop`: compare the closed loop with the best fixed mix, with every floor kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.table import Table

from agents.methods.bundle import Learned
from agents.methods.linear_program import best_fixed_mix
from agents.methods.scene import build_scene
from agents.policy.bundle import Bundle
from agents.training.config import PpoConfig
from envs.backends.live import LiveBackend
from envs.carbon.csv_traces import synthetic_day
from envs.carbon.intensity import IntensityTrace
from envs.energy.meters.choose import choose_meter
from envs.outcomes.profile import Profile
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.console import table_console
from experiments.llama.server import EMBEDDED, llama_server
from experiments.record.profile import record
from experiments.settings import Settings, floors_by_task, write_json
from experiments.statistics import Interval, ratio_of_means
from experiments.tracking import tracked
from experiments.train.job import TrainingJob


class LoopBench(Settings):
    """Profile, train and evaluate on new requests, once per seed, on the live embedded Llama.

    The baseline is the best fixed mix of directives that keeps the same floors. It is computed
    in hindsight on the very requests that it is evaluated on, which favours the baseline.
    """

    out: Path = Field(Path("runs/bench-loop"), description="folder for profiles and bundles")
    model: str = Field(str(EMBEDDED), description="folder with weights or Hugging Face name")
    seeds: int = Field(5, ge=1, description="independent repetitions")
    first_seed: int = Field(0, ge=0, description="first seed; each seed draws its own requests")
    per_task: int = Field(300, ge=20, description="profiled requests per task")
    new_per_task: int = Field(400, ge=20, description="new requests per task for the evaluation")
    replay_steps: int = Field(PpoConfig.replay_steps, ge=1, description="PPO steps on the replay")
    live_steps: int = Field(
        PpoConfig.live_steps, ge=0, description="PPO requests on the live server"
    )
    floor: str = Field("0.95", description="quality floor, or a YAML file of task: floor")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Run all seeds and print one row per seed, with and without task tags."""
        self.save(self.out)
        verdicts: list[Verdict] = []
        with (
            llama_server(self.model, log=self.out / "llama.log") as server,
            Upstream(server.url, server.model) as upstream,
        ):
            for seed in range(self.first_seed, self.first_seed + self.seeds):
                verdicts += self._seed(upstream, seed)
                print(verdicts[-2].line(), flush=True)
        for tags in (True, False):
            show([v for v in verdicts if v.task_tags == tags])
        write_json(self.json_path, {"schema": 1, "seeds": [v.to_json() for v in verdicts]})

    def _seed(self, upstream: Upstream, seed: int) -> "list[Verdict]":
        folder = self.out / f"seed-{seed}"
        trace = synthetic_day()
        meter = choose_meter(upstream.url)
        # The generator seeds lie far apart, so that no two sets of requests share one.
        known = generate_requests(self.per_task, 1000 * (seed + 1))

        def played(requests: Sequence[Request], name: str) -> Profile:
            """Record `requests` under every directive; discard any partial recording."""
            (folder / f"{name}.parquet.partial").unlink(missing_ok=True)
            backend = LiveBackend(upstream, meter, DEFAULT_CATALOGUE, requests)
            return record(
                backend,
                DEFAULT_CATALOGUE,
                upstream.model,
                folder / f"{name}.parquet",
                label=f"seed {seed} {name}",
            )

        profile = played(known, "profile")
        floors = floors_by_task(self.floor, profile.tasks)
        config = PpoConfig(replay_steps=self.replay_steps, live_steps=self.live_steps, seed=seed)
        job = TrainingJob(profile, DEFAULT_CATALOGUE, trace, floors, config)
        with tracked(self.model_dump(mode="json"), folder / "tracking", "bench-loop") as run:
            bundle, trained = job.run(folder / "bundle", run, upstream)
        new = generate_requests(
            self.new_per_task, 1000 * (seed + 1) + 500, exclude=bundle.prompt_hashes
        )
        judged = played(new, "judged")
        return [
            judge(judged, bundle, trace, floors, seed, trained.floors_kept, tags)
            for tags in (True, False)
        ]


@dataclass(frozen=True)
class Verdict:
    """Figures of one seed on new requests.

    Attributes:
        seed: seed of the repetition.
        requests: number of new requests.
        joules_to_mix: joules of the policy divided by those of the best fixed mix.
        joules_to_l0: joules of the policy divided by those of always L0.
        quality_by_task: correctness of the policy divided by that of always L0.
        mix: probability of each directive in the best fixed mix, computed in hindsight.
        share: mean probability of each directive under the policy.
        energy_method: how the joules were obtained, for example "attributed" or "estimated".
        floors_kept: whether the policy kept all floors on the validation prompts of its training.
        task_tags: True if the policy saw the task tags, False if only the requests.
    """

    seed: int
    requests: int
    joules_to_mix: Interval
    joules_to_l0: Interval
    quality_by_task: dict[str, Interval]
    mix: tuple[float, ...]
    share: tuple[float, ...]
    energy_method: str
    floors_kept: bool
    task_tags: bool

    def line(self) -> str:
        """Return a one-line summary for the log."""
        r = self.joules_to_mix
        return f"seed {self.seed}: joules {r.value:.3f} [{r.low:.3f}, {r.high:.3f}] of the best mix"

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-serialisable values."""
        return {
            "seed": self.seed,
            "requests": self.requests,
            "task_tags": self.task_tags,
            "joules_to_best_fixed_mix": self.joules_to_mix.to_json(),
            "joules_to_l0": self.joules_to_l0.to_json(),
            "correct_ratio_by_task": {t: r.to_json() for t, r in self.quality_by_task.items()},
            "best_fixed_mix": list(self.mix),
            "policy_share": list(self.share),
            "energy_method": self.energy_method,
            "floors_kept_in_validation": self.floors_kept,
        }


def judge(
    judged: Profile,
    bundle: Bundle,
    trace: IntensityTrace,
    floors: Mapping[str, float],
    seed: int,
    floors_kept: bool,
    task_tags: bool = True,
) -> Verdict:
    """Return the expected figures of a bundle on recorded requests, against the best fixed mix."""
    scene = build_scene(judged, [trace], floors, quality="correct", seed=seed)
    chance = Learned(bundle, task_tags).choose(scene)
    tasks, joules, correct = scene.tasks, scene.profile.outcomes.energy_joules, scene.scores
    mix = best_fixed_mix(joules, correct, tasks, floors)
    policy = (joules * chance).sum(axis=1)
    policy_correct = (correct * chance).sum(axis=1)
    return Verdict(
        seed,
        len(tasks),
        ratio_of_means(policy, joules @ mix, seed),
        ratio_of_means(policy, joules[:, 0], seed),
        {
            t: ratio_of_means(policy_correct[tasks == t], correct[tasks == t, 0], seed)
            for t in judged.tasks
        },
        tuple(float(x) for x in mix),
        tuple(float(x) for x in chance.mean(axis=0)),
        judged.outcomes.energy_method,
        floors_kept,
        task_tags,
    )


def show(verdicts: list[Verdict]) -> None:
    """Print a table with one row per seed, then the mean and the worst ratios."""
    tasks = list(verdicts[0].quality_by_task)
    table = Table(
        *("seed", "joules / best mix", "joules / L0", *(f"{t} correct / L0" for t in tasks)),
        *("best mix", "policy"),
        title=f"{verdicts[0].requests} new requests per seed, energy {verdicts[0].energy_method}, "
        f"{'with' if verdicts[0].task_tags else 'without'} task tags",
    )
    for v in verdicts:
        cells = (v.joules_to_mix, v.joules_to_l0, *v.quality_by_task.values())
        table.add_row(
            str(v.seed),
            *(f"{c.value:.3f} [{c.low:.3f}, {c.high:.3f}]" for c in cells),
            "/".join(f"{x:.2f}" for x in v.mix),
            "/".join(f"{x:.2f}" for x in v.share),
        )
    table_console().print(table)
    values = [v.joules_to_mix.value for v in verdicts]
    print(f"joules against the best fixed mix: mean {np.mean(values):.3f}, worst {max(values):.3f}")
    ratios = [r for v in verdicts for r in v.quality_by_task.values()]
    least, bound = min(r.value for r in ratios), min(r.high for r in ratios)
    print(f"quality against L0, worst seed and task: {least:.3f}, upper 95% bound {bound:.3f}")
