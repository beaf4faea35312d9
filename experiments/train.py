"""`sprout train`: PPO on the replay of a profile, then on the live server; writes a bundle."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console

from agents.bundle import Bundle
from agents.config import PpoConfig
from agents.ppo import Trained
from envs.carbon import chosen_trace
from envs.directive import read_catalogue
from envs.errors import ConfigError
from envs.limits import read_limits
from envs.profile_reader import read_profile
from envs.upstream import Upstream
from experiments.settings import Settings, floors_by_task
from experiments.tracking import tracked
from experiments.training import TrainingJob, inputs


class Train(Settings):
    """Train a policy bundle."""

    outcomes: Path = Field(description="profile (Parquet)")
    out: Path = Field(description="folder that becomes the bundle")
    upstream: str | None = Field(None, description="live server to continue on")
    model: str | None = Field(None, description="whose rows of the profile to use")
    intensity: list[Path] = Field(
        [], description="intensity CSVs or folders of them; default the synthetic day"
    )
    zone: str | None = Field(
        None, description="one zone; default the hours of all that were given, one after another"
    )
    directives: Path | None = Field(None, description="YAML catalogue; default the paper's three")
    floor: str = Field("0.95", description="quality floor, or a YAML file of task: floor")
    quality: Literal["correct", "preference"] = "correct"
    hold_out: float = Field(
        0.0, ge=0, lt=1, description="share of prompts, by hash, that training never sees"
    )
    seed: int = 0
    replay_steps: int = Field(
        PpoConfig.replay_steps, ge=1, description="steps on the replay, in whole updates of 1,024"
    )
    live_steps: int = Field(PpoConfig.live_steps, ge=0, description="requests to the live server")
    latency: Path | None = Field(
        None, description="YAML of limits: TASK: {mean: seconds, p95: seconds}"
    )
    confidence: float = Field(
        PpoConfig.confidence, ge=0, description="standard errors by which floors are to be cleared"
    )
    patience: int = Field(
        PpoConfig.patience, ge=0, description="stop after so many updates without a better policy"
    )
    resume: bool = Field(False, description="go on from the last checkpoint in --out")

    def cli_cmd(self) -> None:
        """Train and write the bundle."""
        catalogue = read_catalogue(self.directives)
        profile = read_profile(self.outcomes, self.model, catalogue.names)
        profile, _ = profile.split(self.hold_out, "hold-out")
        if not profile.requests:
            raise ConfigError(f"--hold-out {self.hold_out} leaves no prompt to train on")
        trace = chosen_trace(self.intensity, self.zone)
        config = PpoConfig(
            replay_steps=self.replay_steps,
            live_steps=self.live_steps if self.upstream else 0,
            confidence=self.confidence,
            patience=self.patience,
            seed=self.seed,
        )
        floors = floors_by_task(self.floor, profile.tasks)
        limits = {} if self.latency is None else read_limits(self.latency, profile.tasks)
        job = TrainingJob(profile, catalogue, trace, floors, config, self.quality, limits)
        # An artifact can't be used offline: what went in stands in the configuration.
        resolved = self.model_dump(mode="json") | {"inputs": inputs(profile, trace)}
        with tracked(resolved, self.out / "tracking", group="train", resume=self.resume) as run:
            if self.upstream is None:
                bundle, trained = job.run(self.out, run, resume=self.resume)
            else:
                with Upstream(self.upstream, profile.model) as upstream:
                    bundle, trained = job.run(self.out, run, upstream, resume=self.resume)
        self.save(self.out)
        report(bundle, trained)


def report(bundle: Bundle, trained: Trained) -> None:
    """Print what was learned."""
    console = Console()
    console.print(
        f"policy {bundle.version} after {trained.steps:,} steps: "
        f"{100 * (1 - trained.validation.grams_ratio):.1f}% less carbon than L0 on validation "
        "prompts"
    )
    for task, ratio in trained.validation.ratio_by_task.items():
        console.print(f"  {task}: quality {ratio:.3f} of L0")
    for name, over in trained.validation.overshoot.items():
        console.print(f"  latency, {name}: {'kept' if over <= 0 else f'missed by {over:.2f}'}")
    if not trained.floors_kept:
        console.print(
            "[yellow]no checkpoint kept every floor with confidence; the nearest one was taken"
        )
