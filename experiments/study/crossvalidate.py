"""`sprout crossvalidate`: evaluate trained policies on prompts held out from their training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from agents.methods import METHODS, make_method
from agents.methods.bundle import Learned
from agents.methods.direct import Direct
from agents.methods.linucb import LinUCB
from agents.methods.method import TRAINED, Method
from agents.methods.scene import Scene
from agents.policy.bundle import load_bundle
from agents.training.config import PpoConfig
from envs.arrays import Float64Array
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from experiments.console import table_console
from experiments.evaluate.checks import known_tasks
from experiments.evaluate.document import document
from experiments.evaluate.mixes import read_named_mix
from experiments.evaluate.repeat import Repeat, choose
from experiments.evaluate.result import Figures, judged
from experiments.evaluate.table import means_table, table
from experiments.settings import write_json
from experiments.study.data import Data, fold_of, folds_of
from experiments.study.job import Job, folder_of
from experiments.study.pool import train_all
from experiments.study.results import differences, page, zone_savings
from experiments.study.settings import Study
from experiments.train.job import START

TAGGED, UNTAGGED = "policy", "policy_untagged"
# The network before PPO's first step, and the same network trained off-line on expected rewards.
SUPERVISED, GRADIENT = "supervised", "policy_gradient"
BASELINES = "co2_opt,sprout_lp,per_task_lp,hourly_task_lp,known_cost_lp,linucb,direct,clairvoyant"


class CrossValidate(Study):
    """Train on all folds of the prompts but one and evaluate on that one, per fold and seed.

    Every prompt is evaluated once per seed, by a policy that was not trained on it. Figures
    are means over the seeds; their intervals hold for new prompts and new seeds. Finished
    trainings stay in --out, so the same command resumes an interrupted study.
    """

    mix: list[str] = Field(
        ["file"], description="task mixes to evaluate under, as in sprout evaluate"
    )
    methods: str = Field(BASELINES, description="baselines to compare with, comma-separated")
    gradient: bool = Field(
        True, description="also train the same network off-line by policy gradient"
    )
    seeds: int = Field(10, ge=1, description="trainings of each fold")
    first_seed: int = Field(0, ge=0, description="the first seed; the others follow it")
    confidence: float = Field(
        PpoConfig.confidence, ge=0, description="standard errors by which floors must be cleared"
    )
    price_range: tuple[float, float] | None = Field(
        None, description="lowest and highest price of quality to learn; default as sprout train"
    )
    explored: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the prompts, by hash, to leave out of the evaluation because "
        "design choices were made on them",
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples")
    out: Path = Field(Path("runs/crossvalidation"), description="folder for bundles and results")

    def cli_cmd(self) -> None:
        """Train the missing policies, evaluate all of them, print and write the results."""
        profile = self.profile()
        data = self.data(profile, group=self.out.name)
        known = known_tasks(profile, self.quality)
        mixes = {text: read_named_mix(text, profile, known, self.hours) for text in self.mix}
        baselines = self._baselines(data, profile)
        config: dict[str, Any] = {
            "start_batches": self.start_batches,
            "replay_steps": self.replay_steps,
            "confidence": self.confidence,
        }
        if self.price_range is not None:
            config["price_range"] = list(self.price_range)
        variants: dict[str, dict[str, Any]] = {TAGGED: {}}
        if self.gradient:
            variants[GRADIENT] = {"replay_steps": 0, "start_loss": "reward"}
        jobs = [
            Job(variant, seed, fold, config | changes)
            for variant, changes in variants.items()
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for fold in range(self.folds)
        ]
        self.save(self.out)
        train_all(data, jobs, self.out, self.workers, self.ray)
        judged_profile, _ = profile.split(self.explored, "exploration")
        results = {}
        for text, mix in mixes.items():
            repeats = [
                self._chosen(
                    self.scene(judged_profile, data, seed, mix),
                    {
                        (job.variant, job.fold): self.out / folder_of(data, job)
                        for job in jobs
                        if job.seed == seed
                    },
                    baselines,
                )
                for seed in dict.fromkeys(job.seed for job in jobs)
            ]
            results[text] = repeats, judged(repeats, self.resamples)
        console = table_console()
        pages = []
        for text, (repeats, figures) in results.items():
            scene = repeats[0].scene
            console.print(f"[bold]mix {text}[/], means over {self.seeds} seeds")
            console.print(table(scene, figures), "", means_table(profile.tokens_method, figures))
            cells = zone_savings(repeats)
            pages.append(page(Path(text).stem, scene, figures, cells, self.seeds, data.held_out))
            paired = "\n".join(differences(TAGGED, figures))
            print(paired)
            pages.append(paired)
        (self.out / "results.md").write_text("\n".join(pages), encoding="utf-8")
        print(f"page: {self.out / 'results.md'}")
        write_json(self.json_path, self._document(results))

    def _baselines(self, data: Data, profile: Profile) -> dict[str, Method]:
        """Return the baselines.

        `direct` learns from the same prompts and hours as the policies; it and `linucb` clear the
        floors with the same confidence.
        """
        names = [name.strip() for name in self.methods.split(",") if name.strip()]
        unknown = [name for name in names if name not in METHODS]
        if unknown:
            raise ConfigError(
                f"--methods: no method {unknown[0]!r}; give names from {', '.join(METHODS)}"
            )
        known = ~np.isnan(profile.quality(self.quality)).any(axis=1)
        direct = Direct(
            lambda request: fold_of(request, self.folds),
            self.confidence,
            profile.select(known),
            data.trace(),
        )
        fair: dict[str, Method] = {
            "direct": direct,
            "linucb": LinUCB(confidence=self.confidence),
        }
        return {name: fair.get(name) or make_method(name) for name in names}

    def _chosen(
        self,
        scene: Scene,
        folders: Mapping[tuple[str, int], Path],
        baselines: Mapping[str, Method],
    ) -> Repeat:
        by_variant: dict[str, dict[int, Path]] = {}
        for (variant, fold), folder in folders.items():
            by_variant.setdefault(variant, {})[fold] = folder
        if self.start_batches and self.replay_steps:
            starts = {fold: folder / START for fold, folder in by_variant[TAGGED].items()}
            by_variant[SUPERVISED] = starts
        policies = {
            variant: CrossFittedBundles(by_variant[variant], self.folds, task_tags=True)
            for variant in (GRADIENT, SUPERVISED, TAGGED)
            if variant in by_variant
        }
        policies[UNTAGGED] = CrossFittedBundles(by_variant[TAGGED], self.folds, task_tags=False)
        return choose(scene, {**baselines, **policies})

    def _document(
        self, results: Mapping[str, tuple[list[Repeat], dict[str, Figures]]]
    ) -> dict[str, Any]:
        return {
            "schema": 1,
            "folds": self.folds,
            "seeds": list(range(self.first_seed, self.first_seed + self.seeds)),
            "mixes": {
                text: document(repeats[0].scene, figures, text, [])
                | {
                    "cells": [asdict(cell) for cell in zone_savings(repeats)],
                    "policy_less": {
                        other: {
                            measure: figures[TAGGED].difference(measure, result).to_json()
                            for measure in ("excess", "saving")
                        }
                        for other, result in figures.items()
                        if other != TAGGED
                    },
                }
                for text, (repeats, figures) in results.items()
            },
        }


@dataclass(frozen=True)
class CrossFittedBundles:
    """A method that answers each request with the policy not trained on its prompt.

    Attributes:
        folders: folder of each held-out fold's bundle, by fold.
        folds: number of folds into which the prompts are divided.
        task_tags: whether the policies observe the requests' task tags.
    """

    folders: Mapping[int, Path]
    folds: int
    task_tags: bool
    knows = TRAINED

    def choose(self, scene: Scene) -> Float64Array:
        """Return each request's directive probabilities, shape (n, D), as `Method.choose` does.

        Raises:
            ConfigError: a bundle was trained on prompts of the fold that it is evaluated on.
        """
        folds = folds_of(scene.profile, self.folds)
        chances = np.zeros(scene.scores.shape)
        for held_out, folder in self.folders.items():
            bundle = load_bundle(folder)
            rows = folds == held_out
            hashes = {r.prompt_hash for r in scene.profile.select(rows).requests}
            if hashes & bundle.prompt_hashes:
                raise ConfigError(
                    f"{folder}: this policy was trained on prompts of its held-out fold; remove "
                    "the folder and train again"
                )
            chances[rows] = Learned(bundle, self.task_tags).choose(scene)[rows]
        return chances
