"""One training of a study: one seed, on all folds of the prompts but one."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from agents.policy.bundle import SCHEMA_VERSION, Bundle
from agents.policy.bundle_files import MANIFEST, sha256_of
from agents.training.config import PpoConfig
from agents.training.ppo import Trained
from envs.arrays import Int64Array
from envs.carbon.csv_traces import chosen_zones
from envs.carbon.intensity import IntensityTrace, join_traces
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import Catalogue
from envs.requests.request import Request
from envs.upstream import Upstream
from experiments.llama.server import EMBEDDED, llama_server
from experiments.tracking import Run, tracked
from experiments.train.job import TrainingJob

RESULT = "result.json"
# Raise it when a change of the code makes the same inputs train another policy.
TRAINING_SCHEMA = 1
# Attempts per job: a worker can be killed, and a machine can disappear.
TRIES = 3


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


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        variant: name of the variant to which the training belongs.
        seed: random seed of the training.
        fold: fold of the prompts that is held out for the evaluation.
        config: hyperparameters that differ from their defaults.
        directives: names of the directives that the policy may choose; empty means all.
        train_share: share of the training prompts that are used, above 0 and at most 1.
        live: whether training continues on the embedded Llama for `live_steps` requests.
    """

    variant: str
    seed: int
    fold: int
    config: dict[str, Any] = field(default_factory=dict)
    directives: tuple[str, ...] = ()
    train_share: float = 1.0
    live: bool = False

    @property
    def name(self) -> str:
        """VARIANT/seed-S/fold-F."""
        return f"{self.variant}/seed-{self.seed}/fold-{self.fold}"

    def ppo(self) -> PpoConfig:
        """Return all hyperparameters.

        Raises:
            TypeError: `config` has an unknown hyperparameter.
        """
        settings = {**self.config, "without": tuple(self.config.get("without", ()))}
        return PpoConfig(**{**settings, "seed": self.seed})


def digest_of(data: Data, job: Job) -> str:
    """Return the digest of everything that shapes a training, 12 hexadecimal digits.

    A finished training counts for a job only if their digests are equal.
    """
    shaped_by = {
        "schemas": [TRAINING_SCHEMA, SCHEMA_VERSION],
        "files": data.digests,
        "model": data.model,
        "catalogue": data.catalogue,
        "floors": data.floors,
        "quality": data.quality,
        "folds": data.folds,
        "fold": job.fold,
        "settings": asdict(job.ppo()),
        "directives": job.directives,
        "train_share": job.train_share,
        "live": job.live,
    }
    text = json.dumps(shaped_by, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder_of(data: Data, job: Job) -> Path:
    """Return the folder of a job's training, relative to the study's: NAME/DIGEST."""
    return Path(job.name) / digest_of(data, job)


def training_profile(data: Data, job: Job) -> Profile:
    """Read the prompts that the job trains on: those outside its held-out fold.

    Raises:
        ConfigError: no prompts are left.
    """
    names = tuple(str(row["name"]) for row in data.catalogue)
    chosen = tuple(name for name in names if not job.directives or name in job.directives)
    profile = read_profile(data.outcomes, data.model, chosen)
    profile = profile.select(folds_of(profile, data.folds) != job.fold)
    if job.train_share < 1:
        _, profile = profile.split(job.train_share, f"share-{job.seed}")
    if not profile.requests:
        raise ConfigError(
            f"{job.name}: no prompts are left to train on; give more prompts or fewer --folds"
        )
    return profile


def run(data: Data, job: Job, folder: Path) -> None:
    """Train and write the bundle to `folder`; `result.json` is written last and marks success."""
    profile = training_profile(data, job)
    rows = [row for row in data.catalogue if row["name"] in profile.directives]
    training = TrainingJob(
        profile,
        Catalogue.from_rows(rows, Path("catalogue")),
        data.trace(),
        data.floors,
        job.ppo(),
        data.quality,
        inputs={
            "outcomes_sha256": data.digests["outcomes"],
            "held_out_fold": job.fold,
            "folds": data.folds,
            "train_share": job.train_share,
            "training": digest_of(data, job),
        },
    )
    settings = asdict(job) | {"data": {**asdict(data), "outcomes": data.outcomes.name}}
    settings["data"]["intensity"] = [path.name for path in data.intensity]
    with tracked(settings, folder / "tracking", group=data.group) as tracker:
        bundle, trained = _trained(training, job, folder, tracker)
    finished = {
        "digest": digest_of(data, job),
        "job": asdict(job),
        "settings": asdict(job.ppo()),
        "policy": bundle.version,
        "steps": trained.steps,
        "floors_kept": trained.floors_kept,
    }
    draft = folder / f"{RESULT}.new"
    draft.write_text(json.dumps(finished, indent=1) + "\n", encoding="utf-8")
    draft.replace(folder / RESULT)


def _trained(training: TrainingJob, job: Job, folder: Path, tracker: Run) -> tuple[Bundle, Trained]:
    if not job.live:
        return training.run(folder, tracker)
    with (
        llama_server(str(EMBEDDED), log=folder / "llama.log") as server,
        Upstream(server.url, server.model) as upstream,
    ):
        return training.run(folder, tracker, upstream)


def is_done(out: Path, data: Data, job: Job) -> bool:
    """Return whether a study's folder holds the finished training of exactly this job."""
    folder = out / folder_of(data, job)
    try:
        finished = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        same = finished["digest"] == digest_of(data, job)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return same and (folder / MANIFEST).is_file()


def to_json(data: Data, job: Job) -> dict[str, Any]:
    """Return the data and the job as JSON-compatible types."""
    plain = asdict(data)
    plain["outcomes"] = str(data.outcomes)
    plain["intensity"] = [str(path) for path in data.intensity]
    return {"data": plain, "job": asdict(job)}


def from_json(payload: Mapping[str, Any]) -> tuple[Data, Job]:
    """Return the data and the job that `to_json` converted to `payload`."""
    data, job = dict(payload["data"]), dict(payload["job"])
    data["outcomes"] = Path(data["outcomes"])
    data["intensity"] = tuple(Path(path) for path in data["intensity"])
    data["catalogue"] = tuple(data["catalogue"])
    data["hold_out_zones"] = tuple(data["hold_out_zones"])
    job["directives"] = tuple(job["directives"])
    return Data(**data), Job(**job)
