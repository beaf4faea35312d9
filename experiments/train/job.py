"""One training: from a profile to a bundle, tracked; on the replay, then on a live server."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from agents.policy.bundle import Bundle, save_bundle
from agents.policy.bundle_files import MANIFEST
from agents.training.config import PpoConfig
from agents.training.drift import drifts
from agents.training.ppo import TAG_SHARE, Trained, Trainer
from agents.training.prepared import with_known_quality
from envs.carbon.intensity import IntensityTrace
from envs.clock import WallClock
from envs.energy.meters.choose import choose_meter
from envs.errors import ConfigError
from envs.live import LiveBackend, Recording
from envs.outcomes.limits import Limit
from envs.outcomes.profile import Profile, fingerprint
from envs.requests.directive import Catalogue
from envs.requests.projection import Vectors
from envs.upstream import Upstream
from envs.world import World
from experiments.tracking import Run
from experiments.train.live_requests import live_requests
from experiments.train.provenance import TASK_COLUMNS, by_task, commit, figures, inputs, versions

LIVE_CLOCK_SPEED = 3600.0
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class TrainingJob:
    """One training: data, floors and hyperparameters.

    Attributes:
        start: a bundle that was trained on the same profile, to go on from in place of the
            replay.
        vectors: of texts, for the features to use beside words.
    """

    profile: Profile
    catalogue: Catalogue
    trace: IntensityTrace
    floors: dict[str, float]
    config: PpoConfig
    quality: str = "correct"
    limits: Mapping[str, Limit] = field(default_factory=dict)
    start: Bundle | None = None
    vectors: Vectors | None = None

    def run(
        self, out: Path, run: Run, upstream: Upstream | None = None, *, resume: bool = False
    ) -> tuple[Bundle, Trained]:
        """Train, write the bundle to `out` and log it as an artifact.

        Args:
            upstream: live server to continue on for `config.live_steps` requests.
            resume: go on from the last checkpoint of the replay in `out`.
        """
        # Nets this small run fastest on one thread, and threads of two trainings side by side
        # would wait for each other.
        torch.set_num_threads(1)
        with threadpool_limits(1):
            return self._run(out, run, upstream, resume)

    def _run(
        self, out: Path, run: Run, upstream: Upstream | None, resume: bool
    ) -> tuple[Bundle, Trained]:
        # Before the long part, so that what cannot work says so at once.
        backend = self._live_backend(upstream) if upstream and self.config.live_steps else None
        live: dict[str, Any] = {}
        with Progress() as progress:
            total = self.config.replay_steps * (self.start is None)
            total += self.config.live_steps * (backend is not None)
            watched = _Watched(run, progress, total)
            trainer = Trainer(
                profile=self.profile,
                trace=self.trace,
                floors=self.floors,
                config=self.config,
                tracker=watched,
                quality=self.quality,
                limits=self.limits,
                checkpoints=out / CHECKPOINT,
                vectors=self.vectors,
            )
            if resume:
                trainer.resume()
            if self.start is None:
                trainer.replay()
            else:
                trainer.start_from(self.start.policy, self.start.manifest["multipliers"])
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
        run.summarise({"floors_kept": trained.floors_kept, **figures(trained)})
        run.table("by_task", TASK_COLUMNS, by_task(trained, self.catalogue.names))
        if moved := live.get("drift"):
            run.table("drift", list(moved[0]), [list(row.values()) for row in moved])
        files = [out / MANIFEST, *(out / name for name in bundle.manifest["files"])]
        about = inputs(self.profile, self.trace) | {"digest": bundle.version}
        run.artifact("policy-bundle", "policy", files, about)
        return bundle, trained

    def _live_backend(self, upstream: Upstream) -> LiveBackend:
        """Requests of the profile's tasks, on the live server."""
        if self.quality != "correct":
            raise ConfigError(
                f"live answers have no {self.quality}: no judge compares them; only a policy "
                "with floors on correct can go on live"
            )
        seen = _hashes(self.profile)
        if self.start is not None:
            seen |= self.start.prompt_hashes
        known = with_known_quality(self.profile, self.quality)
        requests = live_requests(known, self.config.live_steps, self.config.seed + 7919, seen)
        return LiveBackend(upstream, choose_meter(upstream.url), self.catalogue, requests)

    def _live(self, trainer: Trainer, backend: LiveBackend) -> dict[str, Any]:
        """Continue training live; returns what was asked, and how it differs from the profile."""
        recording = Recording(backend)
        trainer.live(
            World(
                recording,
                trainer.featurizer,
                self.trace,
                trainer.reward,
                WallClock(LIVE_CLOCK_SPEED),
                n_directives=len(self.catalogue),
                lanes=self.config.live_lanes,
                tag_share=TAG_SHARE,
                parts=trainer.prepared.parts_of(backend.requests),
            )
        )
        played, actions, outcomes = recording.played()
        moved = drifts(trainer.prepared, played, actions, outcomes)
        hashes = {request.prompt_hash for request in backend.requests}
        if self.start is not None:
            hashes |= self.start.prompt_hashes - _hashes(self.profile)
        return {
            "requests": len(outcomes),
            "prompt_hashes": sorted(hashes),
            "drift": [asdict(one) | {"drifted": one.drifted} for one in moved],
        }

    def _manifest(self, trainer: Trainer, trained: Trained) -> dict[str, Any]:
        joules = self.profile.outcomes.energy_joules
        tokens = self.profile.outcomes.completion_tokens
        return {
            "quality": self.quality,
            "floors": trainer.reward.floors,
            "limits": {task: asdict(limit) for task, limit in self.limits.items()},
            "multipliers": trained.multipliers,
            "footprint_ref_grams": trainer.reward.footprint_ref_grams,
            "training": asdict(self.config),
            "intensity": {
                "zone": self.trace.zone,
                "signal": self.trace.signal,
                "scope": self.trace.scope,
                "source": Path(self.trace.source).name,
                "sha256": self.trace.sha256,
            },
            "validation": figures(trained) | {"floors_kept": trained.floors_kept},
            "energy": {
                "method": self.profile.outcomes.energy_method,
                "joules_per_completion_token": float(joules.sum() / max(1.0, tokens.sum())),
                "seconds_per_completion_token": float(
                    self.profile.outcomes.device_seconds.sum() / max(1.0, tokens.sum())
                ),
            },
            "data": {
                "fingerprint": fingerprint(self.profile),
                "prompt_hashes": [request.prompt_hash for request in self.profile.requests],
            },
            "continues": None if self.start is None else self.start.version,
            "versions": versions(),
            "git_commit": commit(),
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


def _hashes(profile: Profile) -> set[str]:
    return {request.prompt_hash for request in profile.requests}
