"""Reads the policy of a stable-baselines3 checkpoint without unpickling anything.

`PPO.load` runs whatever the file's pickles say. The network's weights are a plain state
dict, which torch loads as tensors only, and the rest of what is needed is readable text.
"""

import json
import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from agents.policy.network import ACTIVATIONS, CLIP, Policy
from envs.errors import DataError

WEIGHTS = "policy.pth"
ACTOR = re.compile(r"mlp_extractor\.policy_net\.(\d+)\.weight")
REMEDY = "give a PPO or A2C checkpoint of an MlpPolicy, as model.save() writes it"


def read_policy(path: Path, activation: str | None = None) -> Policy:
    """The actor in `path` (a .zip of `model.save`).

    Args:
        activation: "tanh" or "relu"; default what the checkpoint says, or else tanh.

    Raises:
        DataError: no checkpoint, a pickle that only code could load, or a network that is no
            perceptron over plain or `agents.training.sb3.Normaliser` observations.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            weights = archive.read(WEIGHTS)
            described = archive.read("data") if "data" in archive.namelist() else b"{}"
        state = torch.load(BytesIO(weights), map_location="cpu", weights_only=True)
    except KeyError as error:
        raise DataError(path, f"holds no {WEIGHTS}", REMEDY) from error
    except (OSError, zipfile.BadZipFile, UnpicklingError, RuntimeError, EOFError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(path, f"cannot be read as weights ({problem})", REMEDY) from error
    if not isinstance(state, Mapping):
        raise DataError(path, f"{WEIGHTS} is no state dict", REMEDY)
    return _policy(path, state, activation or _activation(described))


def _policy(path: Path, state: Mapping[str, Any], activation: str) -> Policy:
    places = sorted(int(match[1]) for name in state if (match := ACTOR.fullmatch(name)))
    names = [f"mlp_extractor.policy_net.{place}" for place in places] + ["action_net"]
    extractors = {name for name in state if "features_extractor" in name}
    normalised = {"features_extractor.mean", "features_extractor.scale"}
    strange = [name for name in extractors if name.rpartition(".")[2] not in ("mean", "scale")]
    if "action_net.weight" not in state or strange:
        found = strange[0] if strange else "no action_net"
        raise DataError(path, f"{found}: not a perceptron's", REMEDY)
    if activation not in ACTIVATIONS:
        raise DataError(path, f"activation {activation}", f"one of {', '.join(ACTIVATIONS)}")
    layers = tuple((_array(state[f"{n}.weight"]), _array(state[f"{n}.bias"])) for n in names)
    width = layers[0][0].shape[1]
    if normalised <= extractors:
        mean, scale = (_array(state[name]) for name in sorted(normalised))
        return Policy(mean, scale, layers, CLIP, activation)
    zero, one = np.zeros(width, np.float32), np.ones(width, np.float32)
    return Policy(zero, one, layers, float("inf"), activation)


def _activation(described: bytes) -> str:
    """Of the readable part of SB3's description: it repeats what its pickle holds."""
    try:
        arguments = json.loads(described).get("policy_kwargs", {})
    except (ValueError, AttributeError):
        return "tanh"
    named = re.search(r"activation\.(\w+)", str(arguments.get("activation_fn", "")))
    return named[1].lower() if named else "tanh"


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy().astype(np.float32).copy()
