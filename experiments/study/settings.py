"""Settings shared by the study commands, which train policies and evaluate held-out prompts."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from agents.methods.scene import Scene, Windows, build_scene
from agents.training.config import PpoConfig
from envs.outcomes.profile import Profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import read_catalogue
from envs.requests.mix import Mix
from experiments.evaluate.checks import known_tasks
from experiments.settings import Settings, floors_by_task
from experiments.study.data import Data
from serving.settings.hook import CommaSeparated


class Study(Settings):
    """Base of the study commands: their data, their scene, and the machines that train."""

    outcomes: Path = Field(description="profile of recorded outcomes (Parquet)")
    intensity: list[Path] = Field(min_length=1, description="intensity CSVs or folders of them")
    zone: str | None = Field(None, description="grid zone to use; default all zones in --intensity")
    start: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="first hour of each window to evaluate in; default all hours"
    )
    hours: int = Field(720, ge=1, description="length of each window, hours")
    model: str | None = Field(None, description="model whose rows of the profile to use")
    directives: Path | None = Field(
        None, description="YAML catalogue of directives; default the paper's three"
    )
    quality: Literal["correct", "preference"] = Field(
        "correct", description="quality that the floors apply to"
    )
    floor: str = Field(
        "0.95", description="lowest quality relative to L0: a ratio, or a YAML file of TASK: RATIO"
    )
    hold_out_hours: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of each zone's days, the last ones, that are only judged on",
    )
    hold_out_zones: CommaSeparated = Field(
        [], description="zones that are only judged on, and never trained on"
    )
    folds: int = Field(5, ge=2, description="number of folds into which the prompts are divided")
    start_batches: int = Field(
        PpoConfig.start_batches, ge=0, description="batches of each training's supervised start"
    )
    replay_steps: int = Field(
        PpoConfig.replay_steps, ge=0, description="PPO's steps of each training"
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="trainings that run at once on this machine; default one per core",
    )
    ray: str | None = Field(None, description="train on the Ray cluster at this HOST:PORT")
    json_path: Path | None = Field(
        None, alias="json", description="file for the machine-readable result"
    )

    def profile(self) -> Profile:
        """Read the outcomes under the catalogue's directives."""
        return read_profile(self.outcomes, self.model, read_catalogue(self.directives).names)

    def data(self, profile: Profile, group: str) -> Data:
        """Return the inputs that all trainings share.

        Args:
            group: name under which tracking groups the runs.

        Raises:
            ConfigError, DataError: --floor, --zone or what is held out does not fit the data.
        """
        floors = floors_by_task(self.floor, known_tasks(profile, self.quality), profile.tasks)
        data = Data(
            self.outcomes.resolve(),
            tuple(path.resolve() for path in self.intensity),
            self.zone,
            self.model,
            tuple(read_catalogue(self.directives).to_rows()),
            floors,
            self.quality,
            self.folds,
            group,
            self.hold_out_hours,
            tuple(self.hold_out_zones),
        )
        data.trace()
        return data

    def scene(self, profile: Profile, data: Data, seed: int, mix: Mix | None = None) -> Scene:
        """Return the profile's requests, spread over all judged zones and windows."""
        return build_scene(
            profile,
            data.judged_traces(),
            data.floors,
            quality=self.quality,
            windows=Windows(self.start, self.hours),
            mix=mix,
            seed=seed,
        )
