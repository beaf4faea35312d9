"""Import a policy from a stable-baselines3 checkpoint without unpickling anything."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.policy.network import ACTIVATIONS, CLIP, Policy
from agents.policy.sb3_archive import WEIGHTS, read_state_dicts
from agents.policy.vec_normalize import Normalisation, read_normalisation
from envs.errors import DataError

ACTOR = re.compile(r"mlp_extractor\.policy_net\.(\d+)\.weight")
REMEDY = (
    "give a checkpoint of PPO, A2C, TRPO or MaskablePPO with an MlpPolicy, written by model.save()"
)


class Checkpoint(NamedTuple):
    """A checkpoint's actor, and what is known about its training.

    Attributes:
        policy: the actor.
        training: `algorithm`, `seed` and `gamma`; None for what the checkpoint does not say.
    """

    policy: Policy
    training: dict[str, Any]


def read_checkpoint(
    path: Path, activation: str | None = None, vecnormalize: Path | None = None
) -> Checkpoint:
    """Return the actor of a checkpoint, and what is known about its training.

    Args:
        path: a .zip written by `model.save`.
        activation: "tanh" or "relu"; None for the checkpoint's own, or tanh if the checkpoint
            does not say.
        vecnormalize: file of the `VecNormalize` around the training's environment; None if there
            was none.

    Raises:
        DataError: the file is no checkpoint, needs unpickling, holds a network other than a
            perceptron over plain or `agents.training.sb3.Normaliser` observations, or was trained
            with `VecNormalize` and `vecnormalize` is None, or without and is given.
    """
    (state,), raw = read_state_dicts(path, (WEIGHTS,), REMEDY)
    description = _description(raw)
    policy = _policy(path, state, activation or _activation(description))
    # stable-baselines3 keeps the observation before its normalisation, if there is one.
    normalised = description.get("_last_original_obs") is not None
    if normalised and vecnormalize is None:
        raise DataError(
            path,
            "was trained on observations that VecNormalize normalised",
            "give the file that its env.save() wrote, with --vecnormalize",
        )
    if vecnormalize is not None:
        if not normalised:
            raise DataError(path, "was trained without VecNormalize", "leave out --vecnormalize")
        policy = _behind(path, policy, read_normalisation(vecnormalize), vecnormalize)
    training = {"algorithm": _algorithm(description)}
    return Checkpoint(policy, training | {n: description.get(n) for n in ("seed", "gamma")})


def _behind(path: Path, policy: Policy, normalisation: Normalisation | None, file: Path) -> Policy:
    """Return a policy whose observations are normalised first."""
    if normalisation is None:
        return policy
    width = policy.layers[0][0].shape[1]
    if normalisation.mean.shape != (width,):
        raise DataError(
            file,
            f"is for {len(normalisation.mean)} observed components, and the policy has {width}",
            "give the file of the same training",
        )
    if policy.clip < float("inf"):
        raise DataError(path, "normalises its observations twice", REMEDY)
    return replace(
        policy, mean=normalisation.mean, scale=normalisation.scale, clip=normalisation.clip
    )


def _algorithm(description: Mapping[str, Any]) -> str | None:
    """Return the algorithm's name by its hyperparameters; None if they do not tell."""
    kind = str((description.get("policy_class") or {}).get("__module__", ""))
    if "maskable" in kind:
        return "MaskablePPO"
    for name, hyperparameter in (
        ("TRPO", "cg_max_steps"),
        ("PPO", "clip_range"),
        ("A2C", "rollout_buffer_class"),
    ):
        if hyperparameter in description:
            return name
    return None


def _policy(path: Path, state: Mapping[str, Any], activation: str) -> Policy:
    layer_numbers = sorted(int(match[1]) for name in state if (match := ACTOR.fullmatch(name)))
    names = [f"mlp_extractor.policy_net.{number}" for number in layer_numbers] + ["action_net"]
    extractors = {name for name in state if "features_extractor" in name}
    normalised = {"features_extractor.mean", "features_extractor.scale"}
    unsupported = [name for name in extractors if name.rpartition(".")[2] not in ("mean", "scale")]
    if any(name.startswith("q_net.") for name in state):
        raise DataError(
            path,
            "holds action values (DQN), which have no probabilities, and the ledger needs them",
            REMEDY,
        )
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


def _description(raw: bytes) -> dict[str, Any]:
    """Return SB3's JSON description, whose readable part repeats its pickles; or empty."""
    try:
        description = json.loads(raw)
    except ValueError:
        return {}
    return description if isinstance(description, dict) else {}


def _activation(description: Mapping[str, Any]) -> str:
    """Return the activation that a description names, or tanh if it names none."""
    arguments = description.get("policy_kwargs")
    if not isinstance(arguments, dict):
        return "tanh"
    match = re.search(r"activation\.(\w+)", str(arguments.get("activation_fn", "")))
    return match[1].lower() if match else "tanh"


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy().astype(np.float32).copy()
