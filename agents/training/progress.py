"""Checkpoints of a training in progress, and resuming from them.

A checkpoint is a folder with four files. `latest.zip` is written by stable-baselines3's
`model.save`; only the weights and the optimiser's state are read back, as tensors. `average.pt`
holds the running average of the weights, also read as tensors. `best.safetensors` holds the best
policy, `state.json` everything else.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from stable_baselines3 import PPO

from agents.policy.network import Policy
from agents.policy.sb3_archive import OPTIMISER, WEIGHTS, read_state_dicts
from agents.training.lagrangian import Validation
from envs.errors import DataError

REMEDY = "start again without --resume"
# Exceptions that reading a damaged checkpoint can raise.
DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError, SafetensorError)


@dataclass(frozen=True)
class Best:
    """The best policy so far.

    Attributes:
        policy: the policy.
        validation: its validation metrics.
        multipliers: Lagrange multipliers when it was measured.
        kept: whether it keeps every floor and latency limit.
    """

    policy: Policy
    validation: Validation
    multipliers: dict[str, float]
    kept: bool

    def better_than(self, other: "Best | None") -> bool:
        """Return whether this policy is better than `other`; True if `other` is None.

        A policy that keeps every constraint beats one that does not. Among those that do, the
        lower footprint wins; among those that do not, the larger worst margin wins.
        """
        if other is None or self.kept != other.kept:
            return other is None or self.kept
        if self.kept:
            return self.validation.grams_ratio < other.validation.grams_ratio
        return self.validation.worst_margin > other.validation.worst_margin


@dataclass(frozen=True)
class Progress:
    """State of a training in progress.

    Attributes:
        steps: environment steps done.
        levels: integral parts of the multipliers' logarithms, by constraint.
        multipliers: current Lagrange multipliers, by constraint.
        best: the best policy so far.
        weights, optimiser: state dicts of the latest policy and of its optimiser.
        average: state dict of the running average of the weights.
        identity: data and settings; only a training with the same identity may resume.
    """

    steps: int
    levels: dict[str, float]
    multipliers: dict[str, float]
    best: Best
    weights: Mapping[str, Any]
    optimiser: Mapping[str, Any]
    average: Mapping[str, Any]
    identity: dict[str, Any]


def save_progress(folder: Path, model: PPO, progress: Progress) -> None:
    """Replace the last checkpoint with a new one; a reader never sees an incomplete one."""
    draft = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    model.save(draft / "latest.zip")
    torch.save(dict(progress.average), draft / "average.pt")
    (draft / "best.safetensors").write_bytes(save(progress.best.policy.arrays()))
    state = {
        "steps": progress.steps,
        "levels": progress.levels,
        "multipliers": progress.multipliers,
        "identity": progress.identity,
        "best": {
            "found": asdict(progress.best.validation),
            "multipliers": progress.best.multipliers,
            "kept": progress.best.kept,
        },
    }
    (draft / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def load_progress(folder: Path, identity: Mapping[str, Any]) -> Progress:
    """Return a checkpoint's progress.

    Args:
        folder: the checkpoint.
        identity: data and settings of the training that resumes.

    Raises:
        DataError: the checkpoint is missing, damaged, or of a training with another identity.
    """
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        (weights, optimiser), _ = read_state_dicts(
            folder / "latest.zip", (WEIGHTS, OPTIMISER), REMEDY
        )
        average = torch.load(folder / "average.pt", map_location="cpu", weights_only=True)
        arrays = load_file(folder / "best.safetensors")
        best = state["best"]
        validation = Validation(**{**best["found"], "share": tuple(best["found"]["share"])})
        progress = Progress(
            steps=int(state["steps"]),
            levels=dict(state["levels"]),
            multipliers=dict(state["multipliers"]),
            best=Best(_policy(arrays), validation, best["multipliers"], best["kept"]),
            weights=weights,
            optimiser=optimiser,
            average=average,
            identity=state["identity"],
        )
    except FileNotFoundError as error:
        raise DataError(folder, f"no checkpoint ({error.filename} is missing)", REMEDY) from error
    except DAMAGE as error:
        raise DataError(folder, f"the checkpoint is damaged ({error})", REMEDY) from error
    for name, value in json.loads(json.dumps(dict(identity))).items():
        if progress.identity.get(name) != value:
            problem = (
                f"its {name} is {progress.identity.get(name)!r}, but this training's is {value!r}"
            )
            raise DataError(folder, problem, f"use the same {name}, or {REMEDY}")
    return progress


def _policy(arrays: Mapping[str, Any]) -> Policy:
    count = sum(name.endswith(".weight") for name in arrays)
    layers = tuple((arrays[f"layers.{i}.weight"], arrays[f"layers.{i}.bias"]) for i in range(count))
    return Policy(arrays["mean"], arrays["scale"], layers)
