"""`sprout train`: PPO on the replay of a profile, then on the live server; writes a bundle."""

import hashlib
import importlib.metadata
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from rich.console import Console
from rich.progress import Progress

from agents.bundle import Bundle, save_bundle
from agents.config import PpoConfig
from agents.ppo import TAG_SHARE, Trained, Trainer
from envs.carbon import IntensityTrace, read_trace
from envs.clock import WallClock
from envs.directive import Catalogue, read_catalogue
from envs.errors import ConfigError
from envs.live import LiveBackend
from envs.meters.choose import choose_meter
from envs.outcome import Floats
from envs.profile import ARRAYS, Profile
from envs.profile_reader import read_profile
from envs.upstream import Upstream
from envs.workload import generate
from envs.world import World
from experiments.settings import Settings, floors_by_task
from experiments.tracking import Run, tracked

LIVE_CLOCK_SPEED = 3600.0
VERSIONED = ("numpy", "torch", "stable-baselines3", "gymnasium", "transformers", "safetensors")


class Train(Settings):
    """Train a policy bundle."""

    outcomes: Path = Field(description="profile (Parquet)")
    out: Path = Field(description="folder that becomes the bundle")
    upstream: str | None = Field(None, description="live server to continue on")
    model: str | None = Field(None, description="whose rows of the profile to use")
    intensity: Path | None = Field(None, description="CSV trace; default the synthetic day")
    zone: str | None = None
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

    def cli_cmd(self) -> None:
        """Train and write the bundle."""
        catalogue = read_catalogue(self.directives)
        profile = read_profile(self.outcomes, self.model, catalogue.names)
        profile, _ = profile.split(self.hold_out, "hold-out")
        if not profile.requests:
            raise ConfigError(f"--hold-out {self.hold_out} leaves no prompt to train on")
        trace = read_trace(self.intensity, self.zone)
        config = PpoConfig(
            replay_steps=self.replay_steps,
            live_steps=self.live_steps if self.upstream else 0,
            seed=self.seed,
        )
        floors = floors_by_task(self.floor, profile.tasks)
        job = TrainingJob(profile, catalogue, trace, floors, config, self.quality)
        resolved = self.model_dump(mode="json")
        with tracked(resolved, self.out / "tracking", group="train") as run:
            if self.upstream is None:
                bundle, trained = job.run(self.out, run)
            else:
                with Upstream(self.upstream, profile.model) as upstream:
                    bundle, trained = job.run(self.out, run, upstream)
        self.save(self.out)
        report(bundle, trained)


@dataclass(frozen=True)
class TrainingJob:
    """One training: data, floors and hyperparameters."""

    profile: Profile
    catalogue: Catalogue
    trace: IntensityTrace
    floors: dict[str, float]
    config: PpoConfig
    quality: str = "correct"

    def run(self, out: Path, run: Run, upstream: Upstream | None = None) -> tuple[Bundle, Trained]:
        """Train, write the bundle to `out` and log it as an artifact.

        Args:
            upstream: live server to continue on for `config.live_steps` requests.
        """
        # Nets this small run fastest on one thread.
        torch.set_num_threads(1)
        # Before the long part, so that what cannot work says so at once.
        backend = self._live_backend(upstream) if upstream and self.config.live_steps else None
        live: dict[str, Any] = {}
        with Progress() as progress:
            total = self.config.replay_steps + self.config.live_steps * (backend is not None)
            watched = _Watched(run, progress, total)
            trainer = Trainer(
                self.profile, self.trace, self.floors, self.config, watched, self.quality
            )
            trainer.replay()
            if backend is not None:
                live = self._live(trainer, backend)
        trained = trainer.result()
        bundle = save_bundle(
            out,
            trained.policy,
            self.catalogue,
            trained.featurizer,
            self.profile.model,
            self._manifest(trainer, trained) | {"live": live},
        )
        run.summarise({"floors_kept": trained.floors_kept, **_figures(trained)})
        run.artifact("policy-bundle", "policy", out)
        return bundle, trained

    def _live_backend(self, upstream: Upstream) -> LiveBackend:
        """Fresh requests of the profile's tasks, on the live server."""
        seen = {request.prompt_hash for request in self.profile.requests}
        per_task = -(-self.config.live_steps // len(self.profile.tasks))
        requests = [
            request
            for request in generate(per_task, self.config.seed + 7919, exclude=seen)
            if request.task in self.profile.tasks
        ]
        if not requests:
            raise ConfigError(
                "live training draws generated requests, and the profile has other tasks "
                f"({', '.join(self.profile.tasks)}); leave out --upstream"
            )
        return LiveBackend(upstream, choose_meter(upstream.url), self.catalogue, requests)

    def _live(self, trainer: Trainer, backend: LiveBackend) -> dict[str, Any]:
        """Continue training live; returns how many requests that took, and their prompts."""
        before = trainer.result().steps
        trainer.live(
            World(
                backend,
                trainer.featurizer,
                self.trace,
                trainer.reward,
                WallClock(LIVE_CLOCK_SPEED),
                n_directives=len(self.catalogue),
                lanes=self.config.live_lanes,
                tag_share=TAG_SHARE,
            )
        )
        return {
            "requests": trainer.result().steps - before,
            "prompt_hashes": [request.prompt_hash for request in backend.requests],
        }

    def _manifest(self, trainer: Trainer, trained: Trained) -> dict[str, Any]:
        joules = self.profile.energy_joules
        tokens = self.profile.completion_tokens
        return {
            "quality": self.quality,
            "floors": trainer.reward.floors,
            "multipliers": trained.multipliers,
            "training": trainer.configuration(),
            "intensity": {"zone": self.trace.zone, "source": Path(self.trace.source).name},
            "validation": _figures(trained) | {"floors_kept": trained.floors_kept},
            "energy": {
                "method": self.profile.energy_method,
                "joules_per_completion_token": float(joules.sum() / max(1.0, tokens.sum())),
            },
            "data": {
                "fingerprint": fingerprint(self.profile),
                "prompt_hashes": [request.prompt_hash for request in self.profile.requests],
            },
            "versions": {name: _version(name) for name in VERSIONED},
            "git_commit": _commit(),
        }


class _Watched:
    """Passes figures on to a run and moves a progress bar."""

    def __init__(self, run: Run, progress: Progress, total: int) -> None:
        self._run = run
        self._progress = progress
        self._bar = progress.add_task("train", total=total)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(figures, step)
        saved = 100 * (1 - figures["validation/grams_ratio"])
        self._progress.update(self._bar, completed=step, description=f"train, saving {saved:.0f}%")


def fingerprint(profile: Profile) -> str:
    """SHA-256 over the profile's prompts and outcomes."""
    digest = hashlib.sha256()
    for request in profile.requests:
        digest.update(request.prompt_hash.encode())
    for name in ARRAYS:
        array: Floats = getattr(profile, name)
        digest.update(array.tobytes())
    return digest.hexdigest()


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
    if not trained.floors_kept:
        console.print(
            "[yellow]no checkpoint kept every floor with confidence; the nearest one was taken"
        )


def _figures(trained: Trained) -> dict[str, Any]:
    found = trained.validation
    return {
        "grams_ratio": found.grams_ratio,
        "quality_ratio_by_task": found.ratio_by_task,
        "directive_share": list(found.share),
        "worst_margin": found.worst_margin,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    # An installed package may lie inside somebody else's repository.
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return result.stdout.strip() or None
