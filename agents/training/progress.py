"""Checkpoints of a training in progress, and resuming from them.

A checkpoint is a folder with three files. `latest.zip` is written by stable-baselines3's
`model.save`; only the weights and the optimiser's state are read back, as tensors. `average.pt`
holds the running average of the weights, also read as tensors; `state.json` holds the rest.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from stable_baselines3 import PPO

from agents.policy.sb3_archive import OPTIMISER, WEIGHTS, read_state_dicts
from envs.errors import DataError

REMEDY = "start again without --resume"
# Exceptions that reading a damaged checkpoint can raise.
DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError)


@dataclass(frozen=True)
class Progress:
    """State of a training in progress.

    Attributes:
        steps: environment steps done.
        weights, optimiser: state dicts of the latest policy and of its optimiser.
        average: state dict of the running average of the weights.
        identity: data and settings; only a training with the same identity may resume.
    """

    steps: int
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
    state = {"steps": progress.steps, "identity": progress.identity}
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
        progress = Progress(
            steps=int(state["steps"]),
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
