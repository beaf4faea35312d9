"""`sprout crossvalidate`: what training is worth on prompts that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console

from agents.methods import METHODS, make_method
from agents.methods.bundle import Learned
from agents.methods.method import TRAINED
from agents.methods.scene import Scene
from agents.policy.bundle import load_bundle
from agents.training.config import PpoConfig
from envs.arrays import Float64Array
from envs.errors import ConfigError
from experiments.evaluate.checks import known_tasks
from experiments.evaluate.document import document
from experiments.evaluate.mixes import read_named_mix
from experiments.evaluate.result import Figures, Repeat, choose, judged
from experiments.evaluate.table import means_table, table
from experiments.settings import write_json
from experiments.study.job import Job, folds_of
from experiments.study.pool import train_all
from experiments.study.results import page, zone_savings
from experiments.study.settings import Study

TAGGED, UNTAGGED = "policy", "policy_untagged"
BASELINES = "co2_opt,sprout_lp,per_task_lp,hourly_task_lp,known_cost_lp,direct,clairvoyant"


class CrossValidate(Study):
    """Train on all folds of the prompts but one and judge on that one, for every fold and seed.

    So every prompt is judged once a seed, by a policy that never saw it; figures are means
    over the seeds, their intervals hold for new prompts and new seeds. What has been trained
    stays in --out: the same command goes on where it was stopped.
    """

    mix: list[str] = Field(["file"], description="task shares to judge under, as sprout evaluate's")
    methods: str = Field(BASELINES, description="baselines to judge beside it, comma-separated")
    seeds: int = Field(10, ge=1, description="trainings of each fold")
    first_seed: int = Field(0, ge=0)
    confidence: float = Field(
        PpoConfig.confidence, ge=0, description="standard errors by which floors are to be cleared"
    )
    explored: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the prompts, by hash, that are not to judge: those "
        "on which choices were made",
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples")
    out: Path = Field(Path("runs/crossvalidation"), description="folder of all bundles")

    def cli_cmd(self) -> None:
        """Train what is missing, judge, print, write."""
        profile = self.profile()
        data = self.data(profile, group=self.out.name)
        known = known_tasks(profile, self.quality)
        mixes = {text: read_named_mix(text, profile, known, self.hours) for text in self.mix}
        names = self._baselines()
        config = {"replay_steps": self.replay_steps, "confidence": self.confidence}
        jobs = [
            Job("policy", seed, fold, config)
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for fold in range(self.folds)
        ]
        self.save(self.out)
        train_all(data, jobs, self.out, self.workers, self.ray)
        judges, _ = profile.split(self.explored, "exploration")
        found = {}
        for text, mix in mixes.items():
            repeats = [
                self._chosen(self.scene(judges, data.floors, seed, mix), seed, names)
                for seed in dict.fromkeys(job.seed for job in jobs)
            ]
            found[text] = repeats, judged(repeats, self.resamples)
        console = Console()
        pages = []
        for text, (repeats, figures) in found.items():
            scene = repeats[0].scene
            console.print(f"[bold]mix {text}[/], means over {self.seeds} seeds")
            console.print(table(scene, figures), "", means_table(profile.tokens_method, figures))
            pages.append(page(Path(text).stem, scene, figures, zone_savings(repeats), self.seeds))
        (self.out / "results.md").write_text("\n".join(pages), encoding="utf-8")
        print(f"page: {self.out / 'results.md'}")
        write_json(self.json_path, self._document(found))

    def _baselines(self) -> list[str]:
        names = [name.strip() for name in self.methods.split(",") if name.strip()]
        unknown = [name for name in names if name not in METHODS]
        if unknown:
            raise ConfigError(f"--methods: no method {unknown[0]!r}; one of {', '.join(METHODS)}")
        return names

    def _chosen(self, scene: Scene, seed: int, baselines: Sequence[str]) -> Repeat:
        folders = {fold: self.out / Job("policy", seed, fold).name for fold in range(self.folds)}
        policies = {
            TAGGED: CrossFittedBundles(folders, self.folds, task_tags=True),
            UNTAGGED: CrossFittedBundles(folders, self.folds, task_tags=False),
        }
        return choose(scene, {name: make_method(name) for name in baselines} | policies)

    def _document(
        self, found: Mapping[str, tuple[list[Repeat], dict[str, Figures]]]
    ) -> dict[str, Any]:
        return {
            "schema": 1,
            "folds": self.folds,
            "seeds": list(range(self.first_seed, self.first_seed + self.seeds)),
            "mixes": {
                text: document(repeats[0].scene, figures, text, [])
                | {"cells": [asdict(cell) for cell in zone_savings(repeats)]}
                for text, (repeats, figures) in found.items()
            },
        }


@dataclass(frozen=True)
class CrossFittedBundles:
    """Follows, for each request, the policy that never saw its prompt.

    Attributes:
        folders: the bundle of each fold.
    """

    folders: Mapping[int, Path]
    folds: int
    task_tags: bool
    knows = TRAINED

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        fold = folds_of(scene.profile, self.folds)
        table = np.zeros(scene.scores.shape)
        for held, folder in self.folders.items():
            bundle = load_bundle(folder)
            rows = fold == held
            seen = {r.prompt_hash for r in scene.profile.select(rows).requests}
            if seen & bundle.prompt_hashes:
                raise ConfigError(f"{folder} was trained on prompts of its own fold; remove it")
            table[rows] = Learned(bundle, self.task_tags).choose(scene)[rows]
        return table
