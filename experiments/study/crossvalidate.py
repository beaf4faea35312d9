"""`sprout crossvalidate`: what training is worth on prompts that it never saw."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from rich.console import Console

from agents.bundle import load_bundle
from agents.config import PpoConfig
from agents.methods import METHODS, method
from agents.methods.bundle import Learned
from agents.methods.method import TRAINED, Floats
from agents.scene import Scene, spread
from envs.carbon import read_traces
from envs.directive import read_catalogue
from envs.errors import ConfigError
from envs.mix import Mix
from envs.profile import Profile
from envs.profile_reader import read_profile
from experiments.evaluate.checks import known_tasks
from experiments.evaluate.document import document
from experiments.evaluate.mixes import chosen_mix
from experiments.evaluate.result import Figures, Repeat, choose, judged
from experiments.evaluate.table import means_table, table
from experiments.settings import Settings, floors_by_task, write_json
from experiments.study.job import Data, Job, folds_of
from experiments.study.pool import train_all
from experiments.study.results import cells, page

TAGGED, UNTAGGED = "policy", "policy_untagged"
BASELINES = "co2_opt,sprout_lp,per_task_lp,direct,clairvoyant"


class CrossValidate(Settings):
    """Train on all folds of the prompts but one and judge on that one, for every fold and seed.

    So every prompt is judged once a seed, by a policy that never saw it; figures are means
    over the seeds, their intervals hold for new prompts and new seeds. What has been trained
    stays in --out: the same command goes on where it was stopped.
    """

    outcomes: Path = Field(description="profile (Parquet)")
    intensity: list[Path] = Field(min_length=1, description="intensity CSVs or folders of them")
    zone: str | None = Field(None, description="one zone; default all that were given")
    start: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="first hours of windows to judge in; default all hours"
    )
    hours: int = Field(720, ge=1, description="length of each window")
    model: str | None = Field(None, description="whose rows of the profile to use")
    directives: Path | None = Field(None, description="YAML catalogue; default the paper's three")
    quality: Literal["correct", "preference"] = Field("correct", description="what floors are on")
    floor: str = Field("0.95", description="least quality relative to L0: ratio, or YAML by task")
    mix: list[str] = Field(["file"], description="task shares to judge under, as sprout evaluate's")
    methods: str = Field(BASELINES, description="baselines to judge beside it, comma-separated")
    folds: int = Field(5, ge=2, description="parts into which the prompts fall")
    seeds: int = Field(10, ge=1, description="trainings of each fold")
    first_seed: int = Field(0, ge=0)
    replay_steps: int = Field(PpoConfig.replay_steps, ge=1, description="steps of each training")
    confidence: float = Field(
        PpoConfig.confidence, ge=0, description="standard errors by which floors are to be cleared"
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples")
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    ray: str | None = Field(None, description="train on the Ray cluster at this address")
    out: Path = Field(Path("runs/crossvalidation"), description="folder of all bundles")
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Train what is missing, judge, print, write."""
        catalogue = read_catalogue(self.directives)
        profile = read_profile(self.outcomes, self.model, catalogue.names)
        known = known_tasks(profile, self.quality)
        floors = floors_by_task(self.floor, known, profile.tasks)
        mixes = {text: chosen_mix(text, profile, known, self.hours) for text in self.mix}
        data = Data(
            self.outcomes.resolve(),
            tuple(path.resolve() for path in self.intensity),
            self.zone,
            self.model,
            tuple(catalogue.to_rows()),
            floors,
            self.quality,
            self.folds,
            group=self.out.name,
        )
        if self.zone is not None and self.zone not in read_traces(self.intensity):
            raise ConfigError(f"--zone {self.zone}: not among the given traces")
        config = {"replay_steps": self.replay_steps, "confidence": self.confidence}
        jobs = [
            Job("policy", seed, fold, config)
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for fold in range(self.folds)
        ]
        self.save(self.out)
        train_all(data, jobs, self.out, self.workers, self.ray)
        found = {text: self._judged(profile, floors, mix, jobs) for text, mix in mixes.items()}
        console = Console()
        pages = []
        for text, (repeats, figures) in found.items():
            scene = repeats[0].scene
            console.print(f"[bold]mix {text}[/], means over {self.seeds} seeds")
            console.print(table(scene, figures), "", means_table(profile.tokens_method, figures))
            pages.append(page(Path(text).stem, scene, figures, cells(repeats), self.seeds))
        (self.out / "results.md").write_text("\n".join(pages), encoding="utf-8")
        print(f"page: {self.out / 'results.md'}")
        write_json(self.json_path, self._document(found))

    def _judged(
        self, profile: Profile, floors: Mapping[str, float], mix: Mix | None, jobs: list[Job]
    ) -> tuple[list[Repeat], dict[str, Figures]]:
        repeats = []
        zones = read_traces(self.intensity)
        traces = list(zones.values()) if self.zone is None else [zones[self.zone]]
        names = [name.strip() for name in self.methods.split(",") if name.strip()]
        unknown = [name for name in names if name not in METHODS]
        if unknown:
            raise ConfigError(f"--methods: no method {unknown[0]!r}; one of {', '.join(METHODS)}")
        for seed in dict.fromkeys(job.seed for job in jobs):
            scene = spread(
                profile,
                traces,
                floors,
                quality=self.quality,
                starts=self.start,
                hours=self.hours,
                mix=mix,
                seed=seed,
            )
            folders = {job.fold: self.out / job.name for job in jobs if job.seed == seed}
            policies = {
                TAGGED: HeldOut(folders, self.folds, task_tags=True),
                UNTAGGED: HeldOut(folders, self.folds, task_tags=False),
            }
            repeats.append(choose(scene, {name: method(name) for name in names} | policies))
        return repeats, judged(repeats, self.resamples)

    def _document(
        self, found: Mapping[str, tuple[list[Repeat], dict[str, Figures]]]
    ) -> dict[str, Any]:
        return {
            "schema": 1,
            "folds": self.folds,
            "seeds": list(range(self.first_seed, self.first_seed + self.seeds)),
            "mixes": {
                text: document(repeats[0].scene, figures, text, [])
                | {"cells": [asdict(cell) for cell in cells(repeats)]}
                for text, (repeats, figures) in found.items()
            },
        }


@dataclass(frozen=True)
class HeldOut:
    """Follows, for each request, the policy that never saw its prompt.

    Attributes:
        folders: the bundle of each fold.
    """

    folders: Mapping[int, Path]
    folds: int
    task_tags: bool
    knows = TRAINED

    def choose(self, scene: Scene) -> Floats:
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
