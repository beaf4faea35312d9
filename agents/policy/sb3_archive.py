"""Read state dicts from a stable-baselines3 archive without unpickling anything.

`PPO.load` executes the archive's pickles. A state dict holds only tensors, which torch can load
safely (`weights_only`).
"""

import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from envs.errors import DataError

WEIGHTS = "policy.pth"
OPTIMISER = "policy.optimizer.pth"
# stable-baselines3's description of the model: JSON that repeats its pickles in readable form.
DESCRIPTION = "data"


def read_state_dicts(
    path: Path, members: Sequence[str], remedy: str
) -> tuple[list[Mapping[str, Any]], bytes]:
    """Return the state dicts of an archive's members, and the archive's description (JSON).

    Args:
        path: a .zip written by `model.save`.
        members: file names inside the archive.
        remedy: instruction for the user, appended to errors.

    Raises:
        DataError: the archive is damaged, lacks a member, or a member needs unpickling.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if missing := [name for name in members if name not in names]:
                raise DataError(path, f"holds no {missing[0]}", remedy)
            states = [
                torch.load(BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
                for name in members
            ]
            description = archive.read(DESCRIPTION) if DESCRIPTION in names else b"{}"
    except FileNotFoundError as error:
        raise DataError(path, "no such file", remedy) from error
    except (OSError, zipfile.BadZipFile, UnpicklingError, RuntimeError, EOFError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(path, f"cannot be read as weights ({problem})", remedy) from error
    for name, state in zip(members, states, strict=True):
        if not isinstance(state, Mapping):
            raise DataError(path, f"{name} is not a state dict", remedy)
    return states, description
