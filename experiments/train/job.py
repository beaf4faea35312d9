"""One tracked training from a profile to a bundle: on the replay, then on a live server."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from agents.policy.bundle import Bundle, Measured, save_bundle
from agents.policy.bundle_files import MANIFEST
from agents.training.config import TAG_SHARE, PpoConfig
from agents.training.drift import measure_drift
from agents.training.foretold import foretell
from agents.training.ppo import Costs, Trained, Trainer
from agents.training.rates import fit_rates
from envs.backends.live import LiveBackend, Recording
from envs.carbon.intensity import IntensityTrace, iso
from envs.clock import WallClock
from envs.energy.meters.choose import choose_meter
from envs.errors import ConfigError
from envs.outcomes.limits import Limit
from envs.outcomes.profile import Profile, fingerprint, with_known_quality
from envs.requests.directive import Catalogue
from envs.requests.projection import Vectors
from envs.upstream import Upstream
from envs.world import World
from experiments.tracking import Run
from experiments.train.live_requests import live_requests
from experiments.train.provenance import TASK_COLUMNS, by_task, commit, figures, inputs, versions

LIVE_CLOCK_SPEED = 3600.0
CHECKPOINT = "checkpoint"
# Folder of the policy before PPO's first step, in the bundle's.
START = "start"
ALGORITHM = "PPO-Lagrangian (stable-baselines3)"


@dataclass(frozen=True)
class TrainingJob:
    """One training: data, floors and hyperparameters.

    Attributes:
        profile: recorded outcomes of the training prompts.
        catalogue: the directives that the policy may choose.
        trace: hourly carbon intensity during training.
        floors: lowest permitted quality relative to L0, by task.
        config: hyperparameters.
        quality: "correct" or "preference": the quality that the floors apply to.
        limits: latency limits by task; empty means none.
        costs: what the policy's cost is made of.
        start: bundle trained on the same profile from which training continues without a
            replay; None trains a new policy on the replay.
        vectors: text embeddings that the features use in addition to words; None uses words
            only.
        keep_start: whether the policy before PPO's first step is kept too, as a bundle in `START`.
        inputs: where the data are from, for the manifest: file, digest and held-out share of the
            profile; JSON-ready.
    """

    profile: Profile
    catalogue: Catalogue
    trace: IntensityTrace
    floors: dict[str, float]
    config: PpoConfig
    quality: str = "correct"
    limits: Mapping[str, Limit] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    start: Bundle | None = None
    vectors: Vectors | None = None
    keep_start: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def run(
        self, out: Path, run: Run, upstream: Upstream | None = None, *, resume: bool = False
    ) -> tuple[Bundle, Trained]:
        """Train, write the bundle to `out` and log it as an artifact.

        Args:
            run: tracked run that receives figures, tables and the artifact.
            upstream: live server on which training continues for `config.live_steps`
                requests; None trains on the replay only.
            resume: resume from the last checkpoint of the replay in `out`.
        """
        # Networks this small run fastest on one thread, and the threads of two parallel
        # trainings would wait for each other.
        torch.set_num_threads(1)
        with threadpool_limits(1):
            return self._run(out, run, upstream, resume)

    def _run(
        self, out: Path, run: Run, upstream: Upstream | None, resume: bool
    ) -> tuple[Bundle, Trained]:
        # Built before the long replay, so that a live server that cannot be used fails at once.
        backend = self._live_backend(upstream) if upstream and self.config.live_steps else None
        live: dict[str, Any] = {}
        with Progress() as progress:
            total = self.config.replay_steps * (self.start is None)
            total += self.config.live_steps * (backend is not None)
            tracker = _ProgressTracker(run, progress, total)
            trainer = Trainer(
                profile=self.profile,
                trace=self.trace,
                floors=self.floors,
                config=self.config,
                tracker=tracker,
                quality=self.quality,
                limits=self.limits,
                costs=self.costs,
                checkpoints=out / CHECKPOINT,
                vectors=self.vectors,
            )
            if resume:
                trainer.resume()
            if self.start is None:
                trainer.replay()
            else:
                trainer.start_from(self.start.policy)
            if backend is not None:
                live = self._live(trainer, backend)
        trained = trainer.result()
        bundle = self._save(out, trainer, trained, live)
        if self.keep_start and self.config.start_batches and self.config.replay_steps:
            self._save(out / START, trainer, trainer.start_result(), {})
        seconds = {f"seconds/{name}": value for name, value in trained.seconds.items()}
        run.summarise({"floors_kept": trained.floors_kept, **figures(trained), **seconds})
        run.table("by_task", TASK_COLUMNS, by_task(trained, self.catalogue.names))
        if drift := live.get("drift"):
            run.table("drift", list(drift[0]), [list(row.values()) for row in drift])
        files = [out / MANIFEST, *(out / name for name in bundle.manifest["files"])]
        metadata = inputs(self.profile, self.trace) | {"digest": bundle.version}
        run.artifact("policy-bundle", "policy", files, metadata)
        return bundle, trained

    def _save(
        self, folder: Path, trainer: Trainer, trained: Trained, live: Mapping[str, Any]
    ) -> Bundle:
        return save_bundle(
            folder,
            trained.policy,
            self.catalogue,
            trained.featurizer,
            self.profile.model,
            self._manifest(trainer, trained) | {"live": live},
            Measured(trained.front, trainer.prepared.novelty),
        )

    def _live_backend(self, upstream: Upstream) -> LiveBackend:
        """Return a backend that sends new requests of the profile's tasks to the live server.

        Raises:
            ConfigError: the quality is not "correct"; live answers have no other score.
        """
        if self.quality != "correct":
            raise ConfigError(
                f"live answers have no {self.quality}, because no judge compares them; give "
                "--quality correct to train on a live server"
            )
        excluded_hashes = _hashes(self.profile)
        if self.start is not None:
            excluded_hashes |= self.start.prompt_hashes
        known = with_known_quality(self.profile, self.quality)
        requests = live_requests(
            known, self.config.live_steps, self.config.seed + 7919, excluded_hashes
        )
        return LiveBackend(upstream, choose_meter(upstream.url), self.catalogue, requests)

    def _live(self, trainer: Trainer, backend: LiveBackend) -> dict[str, Any]:
        """Continue training on the live server; return the manifest's "live" entry."""
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
                price_range=self.config.price_range,
            )
        )
        requests, actions, outcomes = recording.played()
        measured_drifts = measure_drift(trainer.prepared, requests, actions, outcomes)
        hashes = {request.prompt_hash for request in backend.requests}
        if self.start is not None:
            hashes |= self.start.prompt_hashes - _hashes(self.profile)
        return {
            "requests": len(outcomes),
            "prompt_hashes": sorted(hashes),
            "drift": [asdict(drift) | {"drifted": drift.drifted} for drift in measured_drifts],
        }

    def _manifest(self, trainer: Trainer, trained: Trained) -> dict[str, Any]:
        joules = self.profile.outcomes.energy_joules
        tokens = self.profile.outcomes.completion_tokens
        return {
            "quality": self.quality,
            "floors": trainer.reward.floors,
            "limits": {task: asdict(limit) for task, limit in self.limits.items()},
            "multipliers": trained.validation.prices,
            "objective": asdict(trainer.reward.objective),
            "footprint_ref_grams": trainer.reward.footprint_ref_grams,
            "quality_l0": trainer.reward.quality_l0,
            "training": asdict(self.config),
            "intensity": {
                "zone": self.trace.zone,
                "signal": self.trace.signal,
                "scope": self.trace.scope,
                "source": Path(self.trace.source).name,
                "sha256": self.trace.sha256,
                "traces": [_described(trace) for trace in self.trace.parts or (self.trace,)],
            },
            "inputs": {"algorithm": ALGORITHM, "model": self.profile.model, **self.inputs},
            "validation": figures(trained) | {"floors_kept": trained.floors_kept},
            "answers": {
                "models": self.profile.answer_models,
                "fingerprints": self.profile.fingerprints,
            },
            "foretold": foretell(trained.chances, trainer.sets[0], trainer.prepared),
            "energy": {
                "l0_joules": float(trainer.prepared.known.outcomes.energy_joules[:, 0].mean()),
                "method": self.profile.outcomes.energy_method,
                "rates": fit_rates(self.profile).to_manifest() if joules.any() else None,
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


def _described(trace: IntensityTrace) -> dict[str, Any]:
    """Return what identifies a trace, JSON-ready."""
    return {
        "zone": trace.zone,
        "source": Path(trace.source).name,
        "start": iso(trace.start),
        "end": iso(trace.end),
        "step_seconds": trace.step_seconds,
        "signal": trace.signal,
        "scope": trace.scope,
        "sha256": trace.sha256,
    }


class _ProgressTracker:
    """Forwards figures to a tracked run and updates a progress bar."""

    def __init__(self, run: Run, progress: Progress, total: int) -> None:
        self._run = run
        self._progress = progress
        self._bar = progress.add_task("train", total=total)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(figures, step)
        self._progress.update(self._bar, completed=step)


def _hashes(profile: Profile) -> set[str]:
    return {request.prompt_hash for request in profile.requests}
