"""`sprout train`: PPO on the replay of a profile, then on the live server; writes a bundle."""

from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console

from agents.policy.bundle import Bundle, load_encoder
from agents.policy.bundle_files import sha256_of
from agents.training.config import PpoConfig
from agents.training.drift import COSTS
from agents.training.ppo import Trained
from envs.carbon.csv_traces import chosen_trace
from envs.errors import ConfigError
from envs.outcomes.limits import read_limits
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import read_catalogue
from envs.upstream import Upstream
from experiments.settings import Settings, floors_by_task
from experiments.tracking import tracked
from experiments.train.continuing import continuing
from experiments.train.job import TrainingJob
from experiments.train.provenance import inputs


class Train(Settings):
    """Train a policy bundle."""

    outcomes: Path = Field(description="profile (Parquet)")
    out: Path = Field(description="folder that becomes the bundle")
    upstream: str | None = Field(None, description="live server to continue on")
    start: Path | None = Field(
        None,
        alias="from",
        description="bundle to go on from on the live server, with its floors and "
        "hyperparameters, in place of the replay",
    )
    model: str | None = Field(None, description="whose rows of the profile to use")
    intensity: list[Path] = Field(
        [], description="intensity CSVs or folders of them; default the synthetic day"
    )
    zone: str | None = Field(
        None, description="one zone; default the hours of all that were given, one after another"
    )
    directives: Path | None = Field(None, description="YAML catalogue; default the paper's three")
    floor: str = Field("0.95", description="quality floor, or a YAML file of task: floor")
    floor_slack: float = Field(
        PpoConfig.floor_slack,
        ge=0,
        le=1,
        description="by how much floors yield from the cleanest hour to the dirtiest (SPROUT's xi)",
    )
    quality: Literal["correct", "preference"] = "correct"
    encoder: Path | None = Field(
        None,
        description="folder of a transformer whose vectors of texts are read beside their words: "
        "slower to serve, and torch is then needed there",
    )
    hold_out: float = Field(
        0.0, ge=0, lt=1, description="share of prompts, by hash, that training never sees"
    )
    seed: int = 0
    replay_steps: int = Field(
        PpoConfig.replay_steps, ge=1, description="steps on the replay, in whole updates of 4,096"
    )
    live_steps: int = Field(PpoConfig.live_steps, ge=0, description="requests to the live server")
    latency: Path | None = Field(
        None, description="YAML of limits: TASK: {mean: seconds, p95: seconds}"
    )
    confidence: float = Field(
        PpoConfig.confidence,
        ge=0,
        description="standard errors by which floors and limits are to be cleared",
    )
    patience: int = Field(
        PpoConfig.patience, ge=0, description="stop after so many updates without a better policy"
    )
    learning_rate: float = Field(PpoConfig.learning_rate, gt=0, description="Adam's, at the start")
    live_learning_rate: float = Field(PpoConfig.live_learning_rate, gt=0, description="when live")
    entropy: float = Field(PpoConfig.entropy, ge=0, description="pull towards every directive")
    weight_decay: float = Field(PpoConfig.weight_decay, ge=0, description="AdamW's")
    hidden: int = Field(PpoConfig.hidden, ge=1, description="width of the two layers")
    epochs: int = Field(PpoConfig.epochs, ge=1, description="passes over each rollout")
    dual_rate: float = Field(PpoConfig.dual_rate, gt=0, description="of the floors' multipliers")
    dual_damping: float = Field(PpoConfig.dual_damping, ge=0, description="of the same")
    resume: bool = Field(False, description="go on from the last checkpoint in --out")

    def cli_cmd(self) -> None:
        """Train and write the bundle."""
        job = self._job()
        # An artifact can't be used offline: what went in stands in the configuration.
        made_of = inputs(job.profile, job.trace) | {
            "outcomes_sha256": sha256_of(self.outcomes),
            "policies": {} if job.start is None else {"from": job.start.version},
        }
        resolved = self.model_dump(mode="json") | {"inputs": made_of}
        server = Upstream(self.upstream, job.profile.model) if self.upstream else nullcontext()
        with (
            tracked(resolved, self.out / "tracking", group="train", resume=self.resume) as run,
            server as upstream,
        ):
            bundle, trained = job.run(self.out, run, upstream, resume=self.resume)
        self.save(self.out)
        report(bundle, trained)

    def _job(self) -> TrainingJob:
        catalogue = read_catalogue(self.directives)
        profile = read_profile(self.outcomes, self.model, catalogue.names)
        profile, _ = profile.split(self.hold_out, "hold-out")
        if not profile.requests:
            raise ConfigError(f"--hold-out {self.hold_out} leaves no prompt to train on")
        trace = chosen_trace(self.intensity, self.zone)
        given = self._hyperparameters()
        if self.start is not None:
            self._refuse_what_the_bundle_says()
            changed = {name: given[name] for name in LIVE}
            return continuing(self.start, profile, catalogue, trace, changed)
        config = PpoConfig(**(given if self.upstream else given | {"live_steps": 0}))
        floors = floors_by_task(self.floor, profile.tasks)
        limits = {} if self.latency is None else read_limits(self.latency, profile.tasks)
        vectors = None if self.encoder is None else load_encoder(self.encoder)
        return TrainingJob(
            profile=profile,
            catalogue=catalogue,
            trace=trace,
            floors=floors,
            config=config,
            quality=self.quality,
            limits=limits,
            vectors=vectors,
        )

    def _hyperparameters(self) -> dict[str, Any]:
        names = [field.name for field in fields(PpoConfig)]
        return {name: getattr(self, name) for name in names if name in Train.model_fields}

    def _refuse_what_the_bundle_says(self) -> None:
        if self.upstream is None or not self.live_steps:
            raise ConfigError("--from goes on on a live server: give --upstream and --live-steps")
        said = {"floor", "quality", "latency", "encoder", "resume", *self._hyperparameters()} - LIVE
        if given := sorted(said & self.model_fields_set):
            flag = given[0].replace("_", "-")
            raise ConfigError(
                f"--{flag}: with --from it is the bundle's own; leave it out (also "
                f"SPROUT_{given[0].upper()} and --config's)"
            )


# What may differ from the bundle that is gone on from.
LIVE = {"live_steps", "live_learning_rate", "seed"}


def report(bundle: Bundle, trained: Trained) -> None:
    """Print what was learned, and how the live server differs from the profile."""
    console = Console()
    console.print(
        f"policy {bundle.version} after {trained.steps:,} steps: "
        f"{100 * (1 - trained.validation.grams_ratio):.1f}% less carbon than L0 on validation "
        "prompts"
    )
    for task, ratio in trained.validation.ratio_by_task.items():
        console.print(f"  {task}: quality {ratio:.3f} of L0")
    for name, most in trained.validation.overshoot_bound.items():
        console.print(f"  latency, {name}: {'kept' if most <= 0 else f'missed by {most:.2f}'}")
    if not trained.floors_kept:
        console.print(
            "[yellow]no checkpoint kept every floor and limit with confidence; the nearest one was "
            "taken"
        )
    compared = bundle.manifest["live"].get("drift", [])
    moved = [row for row in compared if row["drifted"]]
    if compared:
        console.print(
            f"live against the profile: {len(moved)} of {len(compared)} figures drifted beyond "
            "their 95% interval (one in twenty does so by chance)"
        )
    for row in moved:
        console.print(
            f"  {row['task']}, {row['directive']}: {row['measure']} "
            f"{'x' if row['measure'] in COSTS else ''}{row['change']:.2f} "
            f"({row['low']:.2f} to {row['high']:.2f}; {row['answers']} answers)"
        )
