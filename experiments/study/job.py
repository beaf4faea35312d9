"""One training of a study: one seed, on all folds of the prompts but one."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agents.policy.bundle import SCHEMA_VERSION, Bundle
from agents.policy.bundle_files import MANIFEST
from agents.training.config import PpoConfig
from agents.training.ppo import Trained
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import Catalogue
from envs.upstream import Upstream
from experiments.llama.server import EMBEDDED, llama_server
from experiments.study.data import Data, folds_of
from experiments.tracking import Run, tracked
from experiments.train.job import TrainingJob

RESULT = "result.json"
# Raise it when a change of the code makes the same inputs train another policy.
TRAINING_SCHEMA = 3
# Attempts per job: a worker can be killed, and a machine can disappear.
TRIES = 3


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
        settings: dict[str, Any] = {**self.config, "seed": self.seed}
        for name in ("without", "price_range"):
            if name in settings:
                settings[name] = tuple(settings[name])
        return PpoConfig(**settings)


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
        keep_start=True,
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
