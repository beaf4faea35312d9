"""Import a policy from a stable-baselines3 checkpoint without unpickling anything."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.policy.network import ACTIVATIONS, CLIP, Policy
from agents.policy.sb3_archive import WEIGHTS, read_state_dicts
from envs.errors import DataError

ACTOR = re.compile(r"mlp_extractor\.policy_net\.(\d+)\.weight")
REMEDY = "give a PPO or A2C checkpoint of an MlpPolicy, written by model.save()"


def read_policy(path: Path, activation: str | None = None) -> Policy:
    """Return the actor of a checkpoint.

    Args:
        path: a .zip written by `model.save`.
        activation: "tanh" or "relu"; None for the checkpoint's own, or tanh if the checkpoint
            does not say.

    Raises:
        DataError: the file is no checkpoint, needs unpickling, or holds a network other than a
            perceptron over plain or `agents.training.sb3.Normaliser` observations.
    """
    (state,), description = read_state_dicts(path, (WEIGHTS,), REMEDY)
    return _policy(path, state, activation or _activation(description))


def _policy(path: Path, state: Mapping[str, Any], activation: str) -> Policy:
    layer_numbers = sorted(int(match[1]) for name in state if (match := ACTOR.fullmatch(name)))
    names = [f"mlp_extractor.policy_net.{number}" for number in layer_numbers] + ["action_net"]
    extractors = {name for name in state if "features_extractor" in name}
    normalised = {"features_extractor.mean", "features_extractor.scale"}
    unsupported = [name for name in extractors if name.rpartition(".")[2] not in ("mean", "scale")]
    if "action_net.weight" not in state or unsupported:
        problem = f"has {unsupported[0]}" if unsupported else "has no action_net"
        raise DataError(path, f"{problem}, so it is not a supported perceptron", REMEDY)
    if activation not in ACTIVATIONS:
        raise DataError(
            path, f"unknown activation {activation}", f"give one of {', '.join(ACTIVATIONS)}"
        )
    layers = tuple((_array(state[f"{n}.weight"]), _array(state[f"{n}.bias"])) for n in names)
    width = layers[0][0].shape[1]
    if normalised <= extractors:
        mean, scale = (_array(state[name]) for name in sorted(normalised))
        return Policy(mean, scale, layers, CLIP, activation)
    zero, one = np.zeros(width, np.float32), np.ones(width, np.float32)
    return Policy(zero, one, layers, float("inf"), activation)


def _activation(description: bytes) -> str:
    """Return the activation named in SB3's JSON description, or tanh if it names none.

    The readable part of the description repeats the contents of its pickles.
    """
    try:
        arguments = json.loads(description).get("policy_kwargs", {})
    except (ValueError, AttributeError):
        return "tanh"
    match = re.search(r"activation\.(\w+)", str(arguments.get("activation_fn", "")))
    return match[1].lower() if match else "tanh"


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy().astype(np.float32).copy()
