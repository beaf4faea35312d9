"""`sprout bench loop`: does the closed loop beat the best fixed mix, with every floor kept?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from agents.methods.bundle import Learned
from agents.methods.linear_program import best_fixed_mix
from agents.methods.scene import build_scene
from agents.policy.bundle import Bundle
from agents.training.config import PpoConfig
from envs.carbon.csv_traces import synthetic_day
from envs.carbon.intensity import IntensityTrace
from envs.energy.meters.choose import choose_meter
from envs.live import LiveBackend
from envs.outcomes.profile import Profile
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.llama.server import EMBEDDED, llama_server
from experiments.record.profile import record
from experiments.settings import Settings, floors_by_task, write_json
from experiments.statistics import Interval, ratio_of_means
from experiments.tracking import tracked
from experiments.train.job import TrainingJob


class LoopBench(Settings):
    """Profile, train and judge on new requests, once a seed, all on the live embedded Llama.

    The baseline is the best fixed mix of directives that keeps the same floors, found
    in hindsight on the very requests it is judged on, which favours it.
    """

    out: Path = Field(Path("runs/bench-loop"), description="folder for profiles and bundles")
    model: str = Field(str(EMBEDDED), description="folder with weights or Hugging Face name")
    seeds: int = Field(5, ge=1, description="independent repetitions")
    first_seed: int = Field(
        0, ge=0, description="each seed draws and judges on requests of its own"
    )
    per_task: int = Field(300, ge=20, description="profiled requests a task")
    new_per_task: int = Field(400, ge=20, description="new requests a task to judge on")
    replay_steps: int = Field(PpoConfig.replay_steps, ge=1)
    live_steps: int = Field(PpoConfig.live_steps, ge=0)
    floor: str = Field("0.95", description="quality floor, or a YAML file of task: floor")
    json_path: Path | None = Field(None, alias="json", description="also write the result here")

    def cli_cmd(self) -> None:
        """Run all seeds and print one row each."""
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
        # Seeds of the drawn requests lie far apart, so that no two sets share one.
        known = generate_requests(self.per_task, 1000 * (seed + 1))

        def played(requests: Sequence[Request], name: str) -> Profile:
            """Record `requests` anew under every directive."""
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
    """One seed's figures on new requests.

    Attributes:
        joules_to_mix: policy's joules over the best fixed mix's.
        joules_to_l0: policy's joules over always L0's.
        quality_by_task: policy's correctness over L0's.
        mix: the best fixed mix, in hindsight.
        share: the policy's directives.
        floors_kept: on the training's validation prompts.
        task_tags: whether the policy saw the tasks' tags, or nothing but the requests.
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
        """One line for the log."""
        r = self.joules_to_mix
        return f"seed {self.seed}: joules {r.value:.3f} [{r.low:.3f}, {r.high:.3f}] of the best mix"

    def to_json(self) -> dict[str, Any]:
        """Machine-readable."""
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
    """Expected figures of a bundle on recorded new requests, against the best fixed mix."""
    scene = build_scene(judged, [trace], floors, quality="correct", seed=seed)
    chance = Learned(bundle, task_tags).choose(scene)
    tasks, joules, correct = scene.tasks, scene.profile.outcomes.energy_joules, scene.scores
    mix = best_fixed_mix(joules, correct, tasks, floors)
    policy = (joules * chance).sum(axis=1)
    kept = (correct * chance).sum(axis=1)
    return Verdict(
        seed,
        len(tasks),
        ratio_of_means(policy, joules @ mix, seed),
        ratio_of_means(policy, joules[:, 0], seed),
        {t: ratio_of_means(kept[tasks == t], correct[tasks == t, 0], seed) for t in judged.tasks},
        tuple(float(x) for x in mix),
        tuple(float(x) for x in chance.mean(axis=0)),
        judged.outcomes.energy_method,
        floors_kept,
        task_tags,
    )


def show(verdicts: list[Verdict]) -> None:
    """Print one row a seed."""
    tasks = list(verdicts[0].quality_by_task)
    table = Table(
        *("seed", "joules / best mix", "joules / L0", *(f"{t} correct / L0" for t in tasks)),
        *("best mix", "policy"),
        title=f"{verdicts[0].requests} new requests a seed, energy {verdicts[0].energy_method}, "
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
    Console(width=200).print(table)
    values = [v.joules_to_mix.value for v in verdicts]
    print(f"joules against the best fixed mix: mean {np.mean(values):.3f}, worst {max(values):.3f}")
    ratios = [r for v in verdicts for r in v.quality_by_task.values()]
    least, bound = min(r.value for r in ratios), min(r.high for r in ratios)
    print(f"quality against L0, worst seed and task: {least:.3f}, upper 95% bound {bound:.3f}")
