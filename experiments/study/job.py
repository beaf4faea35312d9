"""One training of a study: on all folds of the prompts but one, for one seed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.policy.bundle import Bundle
from agents.policy.bundle_files import MANIFEST
from agents.training.config import PpoConfig
from agents.training.ppo import Trained
from envs.arrays import Int64Array
from envs.carbon.csv_traces import chosen_trace
from envs.carbon.intensity import IntensityTrace
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
# Times that a job is started before it is given up: workers are killed, machines go away.
TRIES = 3


def fold_of(request: Request, folds: int) -> int:
    """The fold in which a prompt is judged, by its hash; independent of training's own folds."""
    digest = hashlib.sha256(f"judged:{request.prompt_hash}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def folds_of(profile: Profile, folds: int) -> Int64Array:
    """`fold_of` every request, shape (R,)."""
    return np.array([fold_of(request, folds) for request in profile.requests], dtype=np.int64)


@dataclass(frozen=True)
class Data:
    """What all jobs of a study share; plain, so that it can be sent to another machine.

    Attributes:
        outcomes: profile, Parquet.
        intensity: CSVs or folders of them.
        zone: the one whose hours are trained on; None trains on all, joined.
        catalogue: rows of the directive catalogue.
        floors: least quality ratio by task.
        folds: parts into which the prompts fall.
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

    def trace(self) -> IntensityTrace:
        """The hours to train on."""
        return chosen_trace(self.intensity, self.zone)


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: variant and place, as VARIANT/seed-S/fold-F: also its folder in the study's.
        config: hyperparameters that differ from their defaults.
        directives: which of the profile's directives it may choose; none means all.
        train_share: share of the training prompts that it may use.
        live: whether it continues on the embedded Llama, for `live_steps` requests.
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
        """Its folder below the study's."""
        return f"{self.variant}/seed-{self.seed}/fold-{self.fold}"

    def ppo(self) -> PpoConfig:
        """The hyperparameters.

        Raises:
            TypeError: `config` has an unknown one.
        """
        given = {**self.config, "without": tuple(self.config.get("without", ()))}
        return PpoConfig(**{**given, "seed": self.seed})


def training_profile(data: Data, job: Job) -> Profile:
    """The prompts that a job trains on: not those of its fold."""
    names = tuple(str(row["name"]) for row in data.catalogue)
    chosen = tuple(name for name in names if not job.directives or name in job.directives)
    profile = read_profile(data.outcomes, data.model, chosen)
    profile = profile.select(folds_of(profile, data.folds) != job.fold)
    if job.train_share < 1:
        _, profile = profile.split(job.train_share, f"share-{job.seed}")
    if not profile.requests:
        raise ConfigError(f"{job.name}: no prompts are left to train on; give more, or fewer folds")
    return profile


def run(data: Data, job: Job, folder: Path) -> None:
    """Train into `folder`: a bundle there and, last, `result.json`."""
    profile = training_profile(data, job)
    rows = [row for row in data.catalogue if row["name"] in profile.directives]
    training = TrainingJob(
        profile,
        Catalogue.from_rows(rows, Path("catalogue")),
        data.trace(),
        data.floors,
        job.ppo(),
        data.quality,
    )
    settings = asdict(job) | {"data": {**asdict(data), "outcomes": data.outcomes.name}}
    settings["data"]["intensity"] = [path.name for path in data.intensity]
    with tracked(settings, folder / "tracking", group=data.group) as tracker:
        bundle, trained = _trained(training, job, folder, tracker)
    finished = {
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


def is_done(folder: Path, job: Job) -> bool:
    """Whether this very job has finished there, its defaults what they are now."""
    try:
        finished = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    asked = json.loads(json.dumps({"job": asdict(job), "settings": asdict(job.ppo())}))
    same = all(finished.get(name) == value for name, value in asked.items())
    return same and (folder / MANIFEST).is_file()


def to_json(data: Data, job: Job) -> dict[str, Any]:
    """Both as plain types."""
    plain = asdict(data)
    plain["outcomes"] = str(data.outcomes)
    plain["intensity"] = [str(path) for path in data.intensity]
    return {"data": plain, "job": asdict(job)}


def from_json(written: Mapping[str, Any]) -> tuple[Data, Job]:
    """What `to_json` wrote."""
    data, job = dict(written["data"]), dict(written["job"])
    data["outcomes"] = Path(data["outcomes"])
    data["intensity"] = tuple(Path(path) for path in data["intensity"])
    data["catalogue"] = tuple(data["catalogue"])
    job["directives"] = tuple(job["directives"])
    return Data(**data), Job(**job)
