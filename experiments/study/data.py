"""The inputs that all trainings of a study share: files, floors, folds, and what is held out."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from agents.policy.bundle_files import sha256_of
from envs.arrays import Int64Array
from envs.carbon.csv_traces import chosen_zones
from envs.carbon.intensity import IntensityTrace, join_traces
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.request import Request


def fold_of(request: Request, folds: int) -> int:
    """Return the fold in which the request's prompt is held out.

    The fold depends only on the prompt's hash, and not on the folds that training makes.
    """
    digest = hashlib.sha256(f"judged:{request.prompt_hash}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def folds_of(profile: Profile, folds: int) -> Int64Array:
    """Return the fold of each of the profile's R requests, shape (R,)."""
    return np.array([fold_of(request, folds) for request in profile.requests], dtype=np.int64)


@dataclass(frozen=True)
class Data:
    """The inputs shared by all jobs of a study, as plain types that can be sent to a machine.

    Attributes:
        outcomes: path of the profile (Parquet).
        intensity: intensity CSVs, or folders of CSVs.
        zone: grid zone whose hours are used for training; None joins the hours of all zones.
        model: model whose rows of the profile are used; None if the profile does not hold several.
        catalogue: rows of the directive catalogue.
        floors: lowest permitted quality relative to L0, by task.
        quality: "correct" or "preference": the quality that the floors apply to.
        folds: number of folds into which the prompts are divided.
        hold_out_hours: share of each zone's days, the last ones, that are never trained on.
        hold_out_zones: zones that are never trained on.
        group: name under which tracking groups the study's runs.
    """

    outcomes: Path
    intensity: tuple[Path, ...]
    zone: str | None
    model: str | None
    catalogue: tuple[dict[str, Any], ...]
    floors: dict[str, float]
    quality: str
    folds: int
    group: str
    hold_out_hours: float = 0.0
    hold_out_zones: tuple[str, ...] = ()

    def trace(self) -> IntensityTrace:
        """Return the intensities to train on.

        Raises:
            ConfigError: nothing is left to train on, or a held-out zone is unknown.
        """
        return join_traces(self._traces()[0])

    def judged_traces(self) -> list[IntensityTrace]:
        """Return the intensities to evaluate on: held-out zones and hours, if there are any."""
        return self._traces()[1]

    @property
    def held_out(self) -> str:
        """The data that the evaluation uses and no training did, in words."""
        parts = ["prompts"]
        if self.hold_out_hours:
            parts.append(f"hours (the last {100 * self.hold_out_hours:g} % of the days)")
        if self.hold_out_zones:
            parts.append(f"zones ({', '.join(self.hold_out_zones)})")
        if len(parts) == 1:
            return "prompts that were held out from training; its hours and zones are trained on"
        return f"{' and '.join(parts)} that were held out from training"

    def _traces(self) -> tuple[list[IntensityTrace], list[IntensityTrace]]:
        traces = chosen_zones(self.intensity, self.zone)
        zones = [trace.zone for trace in traces]
        if unknown := set(self.hold_out_zones) - set(zones):
            raise ConfigError(
                f"--hold-out-zones: no zone {min(unknown)!r}; give some of {', '.join(zones)}"
            )
        split = {trace.zone: trace.split_days(self.hold_out_hours) for trace in traces}
        trained = [split[zone][0] for zone in zones if zone not in self.hold_out_zones]
        kept = [trace for trace in trained if trace is not None]
        if not kept:
            raise ConfigError(
                "--hold-out-hours and --hold-out-zones leave no hours to train on; hold out less"
            )
        judged = traces
        if self.hold_out_hours:
            judged = [later for _, later in split.values() if later is not None]
        if self.hold_out_zones:
            judged = [trace for trace in judged if trace.zone in self.hold_out_zones]
        return kept, judged

    @cached_property
    def digests(self) -> dict[str, Any]:
        """Digests of the files' contents, without the files' names; JSON-ready."""
        return {
            "outcomes": sha256_of(self.outcomes),
            "traces": [
                [t.zone, t.start, t.step_seconds, t.signal, t.scope, t.sha256]
                for t in self._traces()[0]
            ],
        }
