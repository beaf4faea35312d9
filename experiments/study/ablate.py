"""`sprout ablate`: measure what each part of the training contributes; one question per file."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import CliPositionalArg

from agents.methods.bundle import Learned
from agents.policy.bundle import load_bundle
from agents.training.config import PpoConfig
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.yaml_file import read_yaml
from experiments.evaluate.result import judge
from experiments.settings import write_json
from experiments.study.data import Data, folds_of
from experiments.study.figure import draw
from experiments.study.job import Job, digest_of, folder_of
from experiments.study.page import write_page
from experiments.study.pool import train_all
from experiments.study.settings import Study
from experiments.study.tidy import Row, aggregated, write_rows

SHIPPED = Path(__file__).resolve().parent.parent / "ablations"


class Variant(BaseModel):
    """One variant of the training.

    Attributes:
        ppo: hyperparameters of `PpoConfig` that differ from their defaults.
        directives: names of the catalogue's directives that the policy may choose; empty
            means all.
        train_share: share of the training prompts that are used, above 0 and at most 1.
        live: whether training continues on the embedded Llama for `live_steps` requests.
    """

    model_config = ConfigDict(extra="forbid")

    ppo: dict[str, Any] = {}
    directives: list[str] = []
    train_share: float = Field(1.0, gt=0, le=1)
    live: bool = False


class Question(BaseModel):
    """An ablation file.

    Attributes:
        question: title of the result page and of the figure.
        variants: the variants to compare, by name; the first is the reference.
    """

    model_config = ConfigDict(extra="forbid")

    question: str
    variants: dict[str, Variant] = Field(min_length=2)


class Ablate(Study):
    """Train every variant with every seed and compare the variants on held-out prompts.

    Each seed is evaluated on one fold of the prompts; this fold is the same for all variants.
    Finished trainings stay in --out, so the same command resumes an interrupted study.
    """

    file: CliPositionalArg[Path] = Field(
        description=f"YAML file of the ablation, or the name of a shipped one: "
        f"{', '.join(sorted(path.stem for path in SHIPPED.glob('*.yaml')))}"
    )
    seeds: int = Field(5, ge=2, description="trainings of each variant")
    task_tags: bool = Field(True, description="show policies the task tags in the evaluation")
    out: Path | None = Field(None, description="result folder; default runs/ablate/NAME-OF-FILE")

    def cli_cmd(self) -> None:
        """Train the missing policies, evaluate all of them, and write table, page and figure."""
        path = self.file if self.file.exists() else SHIPPED / f"{self.file}.yaml"
        question = read_question(path)
        out = self.out or Path("runs/ablate") / path.stem
        profile = self.profile()
        data = self.data(profile, group=f"ablate-{path.stem}")
        jobs = [
            Job(
                name,
                seed,
                seed % self.folds,
                {"start_batches": self.start_batches, "replay_steps": self.replay_steps}
                | variant.ppo,
                tuple(variant.directives),
                variant.train_share,
                variant.live,
            )
            for name, variant in question.variants.items()
            for seed in range(self.seeds)
        ]
        for job in jobs:
            job.ppo()
        self.save(out)
        train_all(data, jobs, out, self.workers, self.ray)
        rows = self._judged(profile, jobs, out, data)
        write_rows(out / "runs.csv", rows)
        summary = aggregated(rows, list(question.variants))
        draw(summary, question.question, out / "ablation.png")
        page = write_page(out / "ablation.md", question.question, summary, rows, data)
        write_json(
            self.json_path, {"schema": 1, "question": question.question, **summary.to_json()}
        )
        print(page)
        print(f"table, page and figure: {out}")

    def _judged(self, profile: Profile, jobs: list[Job], out: Path, data: Data) -> list[Row]:
        folds = folds_of(profile, self.folds)
        rows = []
        for job in jobs:
            bundle = load_bundle(out / folder_of(data, job))
            scene = self.scene(profile.select(folds == job.fold), data, job.seed)
            # Only the values are used: the intervals are computed over the seeds.
            figures = judge(scene, {"policy": Learned(bundle, self.task_tags)}, resamples=2)
            rows.append(Row.of(job, digest_of(data, job), figures["policy"], scene))
        return rows


def read_question(path: Path) -> Question:
    """Read and check the ablation file at `path`.

    Raises:
        ConfigError: the file cannot be read, or a field is wrong (the message names it).
    """
    names = ", ".join(sorted(shipped.stem for shipped in SHIPPED.glob("*.yaml")))
    try:
        question = Question.model_validate(read_yaml(path, f"shipped ablations are {names}"))
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {location}: {first['msg']}") from error
    known = {field.name for field in fields(PpoConfig)} - {"seed"}
    for name, variant in question.variants.items():
        unknown = sorted(set(variant.ppo) - known)
        if unknown:
            raise ConfigError(
                f"{path}: variants.{name}.ppo: unknown hyperparameter {unknown[0]!r}; give one "
                f"of {', '.join(sorted(known))}"
            )
        if "/" in name:
            raise ConfigError(
                f"{path}: variants.{name}: the name becomes a folder name; give one without /"
            )
    return question
