"""`sprout train`: train with PPO on a profile's replay, then on a live server; write a bundle."""

from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agents.policy.bundle import Bundle, load_encoder
from agents.policy.bundle_files import sha256_of
from agents.training.config import PpoConfig
from agents.training.drift import COSTS
from agents.training.ppo import Costs, Trained
from envs.carbon.csv_traces import chosen_trace
from envs.errors import ConfigError
from envs.money import SHIPPED, read_tariff
from envs.outcomes.limits import read_limits
from envs.outcomes.objective import WEIGHTS
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import read_catalogue
from envs.upstream import Upstream
from experiments.console import table_console
from experiments.settings import Settings, floors_by_task
from experiments.tracking import tracked
from experiments.train.continuing import continuing
from experiments.train.job import TrainingJob
from experiments.train.provenance import inputs


class Train(Settings):
    """Train a policy bundle."""

    outcomes: Path = Field(description="profile of recorded outcomes (Parquet)")
    out: Path = Field(description="folder for the bundle")
    upstream: str | None = Field(None, description="URL of a live server to continue training on")
    start: Path | None = Field(
        None,
        alias="from",
        description="bundle to continue from on the live server, with its floors and "
        "hyperparameters; no replay is run",
    )
    model: str | None = Field(None, description="model whose rows of the profile to use")
    intensity: list[Path] = Field(
        [],
        description="intensity CSVs, folders of them, or a constant number of gCO2e/kWh; default "
        "a synthetic day",
    )
    zone: str | None = Field(
        None,
        description="grid zone to use; default the hours of all zones in --intensity, joined",
    )
    directives: Path | None = Field(
        None, description="YAML catalogue of directives; default the paper's three"
    )
    floor: str = Field(
        "0.95",
        description="lowest quality relative to L0 (no directive): a ratio, or a YAML file of "
        "TASK: RATIO",
    )
    floor_slack: float = Field(
        PpoConfig.floor_slack,
        ge=0,
        le=1,
        description="how far floors are lowered in the dirtiest hour, relative to the cleanest "
        "(SPROUT's xi)",
    )
    quality: Literal["correct", "preference"] = Field(
        "correct", description="quality that the floors apply to"
    )
    encoder: Path | None = Field(
        None,
        description="folder of a transformer whose text embeddings are used in addition to words; "
        "serving is then slower and needs torch",
    )
    hold_out: float = Field(
        0.0, ge=0, lt=1, description="share of prompts, by hash, that training never sees"
    )
    seed: int = Field(0, description="random seed of the training")
    start_batches: int = Field(
        PpoConfig.start_batches,
        ge=0,
        description="batches of 2,048 requests of the supervised start; 0 begins at random",
    )
    replay_steps: int = Field(
        PpoConfig.replay_steps,
        ge=0,
        description="PPO's steps on the replay, rounded up to whole updates of 4,096; 0 leaves the "
        "policy as the supervised start made it",
    )
    live_steps: int = Field(
        PpoConfig.live_steps, ge=0, description="number of requests to the live server"
    )
    latency: Path | None = Field(
        None, description="YAML file of latency limits, TASK: {mean: SECONDS, p95: SECONDS}"
    )
    confidence: float = Field(
        PpoConfig.confidence,
        ge=0,
        description="standard errors by which floors and limits must be cleared",
    )
    pool_zones: bool = Field(
        PpoConfig.pool_zones,
        description="keep floors in the mean over all zones of --intensity, so that one zone may "
        "make up for another; default: in each zone",
    )
    price_range: tuple[float, float] = Field(
        PpoConfig.price_range,
        description="lowest and highest price of quality that is learned, LOW,HIGH; a narrow one "
        "reaches fewer floors",
    )
    weights: str = Field(
        "grams=1",
        description="what the cost is made of: weights of grams, seconds and money, each relative "
        "to its mean without a directive, e.g. grams=1,seconds=0.5,money=0.5",
    )
    tariff: Path | None = Field(
        None,
        description="YAML file of what energy and a device's time cost in money; default the "
        "shipped one",
    )
    start_temperature: float = Field(
        PpoConfig.start_temperature,
        gt=0,
        description="how far the supervised start softens the best directives",
    )
    learning_rate: float = Field(
        PpoConfig.learning_rate, gt=0, description="initial learning rate of AdamW on the replay"
    )
    live_learning_rate: float = Field(
        PpoConfig.live_learning_rate, gt=0, description="initial learning rate on the live server"
    )
    entropy: float = Field(PpoConfig.entropy, ge=0, description="weight of the entropy bonus")
    weight_decay: float = Field(PpoConfig.weight_decay, ge=0, description="weight decay of AdamW")
    hidden: int = Field(PpoConfig.hidden, ge=1, description="width of the two hidden layers")
    epochs: int = Field(PpoConfig.epochs, ge=1, description="passes over each rollout")
    resume: bool = Field(False, description="resume from the last checkpoint in --out")

    def cli_cmd(self) -> None:
        """Train and write the bundle."""
        job = self._job()
        for task in job.profile.tasks:
            if (count := int(job.profile.rows_of(task).sum())) < FEW_PROMPTS:
                print(
                    f"task {task}: {count} requests are too few to check a floor with; record "
                    f"{FEW_PROMPTS} or more"
                )
        # Offline runs cannot link artifacts, so the configuration records the inputs.
        lineage = inputs(job.profile, job.trace) | {
            "outcomes_sha256": sha256_of(self.outcomes),
            "policies": {} if job.start is None else {"from": job.start.version},
        }
        resolved = self.model_dump(mode="json") | {"inputs": lineage}
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
            raise ConfigError(
                f"--hold-out {self.hold_out} leaves no prompt to train on; give a smaller share"
            )
        trace = chosen_trace(self.intensity, self.zone)
        hyperparameters = self._hyperparameters()
        if self.start is not None:
            self._refuse_settings_of_the_bundle()
            changed = {name: hyperparameters[name] for name in LIVE}
            job = continuing(self.start, profile, catalogue, trace, changed)
            return replace(job, inputs=self._inputs())
        if not self.upstream:
            hyperparameters |= {"live_steps": 0}
        config = PpoConfig(**hyperparameters)
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
            costs=self._costs(),
            vectors=vectors,
            inputs=self._inputs(),
        )

    def _costs(self) -> Costs:
        try:
            pairs = [pair.split("=") for pair in self.weights.split(",")]
            weights = {name.strip(): float(weight) for name, weight in pairs}
        except ValueError as error:
            raise ConfigError(
                f"--weights {self.weights}: give NAME=NUMBER,... with names from "
                f"{', '.join(WEIGHTS)}"
            ) from error
        if self.tariff is not None and not weights.get("money"):
            raise ConfigError("--tariff: money has no weight; also give it one in --weights")
        tariff = read_tariff(self.tariff or SHIPPED) if weights.get("money") else None
        return Costs(weights, tariff)

    def _inputs(self) -> dict[str, Any]:
        return {
            "outcomes": self.outcomes.name,
            "outcomes_sha256": sha256_of(self.outcomes),
            "hold_out": self.hold_out,
        }

    def _hyperparameters(self) -> dict[str, Any]:
        names = [field.name for field in fields(PpoConfig)]
        return {name: getattr(self, name) for name in names if name in Train.model_fields}

    def _refuse_settings_of_the_bundle(self) -> None:
        """Raise if --from has no live server, or is combined with a setting that it fixes."""
        if self.upstream is None or not self.live_steps:
            raise ConfigError(
                "--from continues on a live server: give --upstream and --live-steps above 0"
            )
        fixed = {"floor", "quality", "latency", "encoder", "resume", "weights", "tariff"}
        fixed |= set(self._hyperparameters())
        if conflicts := sorted((fixed - LIVE) & self.model_fields_set):
            flag = conflicts[0].replace("_", "-")
            raise ConfigError(
                f"--{flag}: with --from the bundle fixes this value; leave it out (also "
                f"SPROUT_{conflicts[0].upper()} and the entry in --config)"
            )


# Requests of a task below which a floor's standard error says little.
FEW_PROMPTS = 50
# Settings that may differ from those of the bundle given with --from.
LIVE = {"live_steps", "live_learning_rate", "seed"}


def report(bundle: Bundle, trained: Trained) -> None:
    """Print the trained policy's figures, and how the live server differs from the profile."""
    console = table_console()
    console.print(
        f"policy {bundle.version} after {trained.steps:,} steps: "
        f"{100 * (1 - trained.validation.grams_ratio):.1f}% less carbon than L0 on validation "
        "prompts"
    )
    for task, ratio in trained.validation.ratio_by_task.items():
        price = trained.validation.prices[task]
        console.print(f"  {task}: quality {ratio:.3f} of L0, at a price of {price:.3g}")
    for name, bound in trained.validation.overshoot_bound.items():
        verdict = "kept" if bound <= 0 else f"missed by {bound:.2f}"
        console.print(f"  latency, {name}: {verdict}")
    if not trained.floors_kept:
        worst = trained.validation.missed.items()
        missed = ", ".join(f"{name} by {size:.3f}" for name, size in worst)
        console.print(
            "[yellow]no price keeps every floor and limit with the required confidence; missed: "
            f"{missed}; record more requests, or lower --floor or --confidence"
        )
    compared = bundle.manifest["live"].get("drift", [])
    moved = [row for row in compared if row["drifted"]]
    if compared:
        console.print(
            f"live server against the profile: {len(moved)} of {len(compared)} figures differ by "
            "more than their 95% interval (one in twenty does so by chance)"
        )
    for row in moved:
        console.print(
            f"  {row['task']}, {row['directive']}: {row['measure']} "
            f"{'x' if row['measure'] in COSTS else ''}{row['change']:.2f} "
            f"({row['low']:.2f} to {row['high']:.2f}; {row['answers']} answers)"
        )
