"""The policy of a stable-baselines3 checkpoint, read without unpickling anything."""

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
REMEDY = "give a PPO or A2C checkpoint of an MlpPolicy, as model.save() writes it"


def read_policy(path: Path, activation: str | None = None) -> Policy:
    """The actor in `path` (a .zip of `model.save`).

    Args:
        activation: "tanh" or "relu"; default what the checkpoint says, or else tanh.

    Raises:
        DataError: no checkpoint, a pickle that only code could load, or a network that is no
            perceptron over plain or `agents.training.sb3.Normaliser` observations.
    """
    (state,), described = read_state_dicts(path, (WEIGHTS,), REMEDY)
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
