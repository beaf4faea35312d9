"""Small profiles, requests and bundles for tests, built with the project's own code."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.policy.bundle import Bundle, Measured, save_bundle
from agents.policy.front import COSTS, Curve, Front
from agents.policy.network import Policy
from agents.training.config import PpoConfig
from envs.outcomes.floors import untagged_name
from envs.outcomes.profile import Profile, write_profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import DEFAULT_CATALOGUE, Catalogue
from envs.requests.features import Featurizer
from envs.requests.request import Request

ARRIVALS = """timestamp,context_tokens,generated_tokens
2023-11-16 18:00:00.0000000,10,190
2023-11-16 18:00:01.5000000,10,100
2023-11-16 18:00:02.0000000,10,0
2023-11-16 18:00:09.0000000,10,50
"""
TOKENS = {"none": 50, "brief": 10, "very_brief": 2}


def rows(
    requests: list[Request], correct: Callable[[Request, str], float], **changed: Any
) -> list[dict[str, Any]]:
    """Return profile rows in which the token count depends on the directive only."""
    return [
        {
            "request_id": r.request_id,
            "task": r.task,
            "model": "made",
            "directive": name,
            "messages": r.messages_json,
            "reference": r.reference,
            "difficulty": r.difficulty,
            "response": "x",
            "prompt_tokens": 20,
            "completion_tokens": tokens,
            "energy_joules": 0.1 * tokens,
            "energy_method": "estimated",
            "latency_seconds": 0.01 * tokens,
            "device_seconds": 0.01 * tokens,
            "preference": None,
            "correct": correct(r, name),
        }
        | changed
        for r in requests
        for name, tokens in TOKENS.items()
    ]


def quick(**changed: Any) -> PpoConfig:
    """Return hyperparameters of a training that takes seconds."""
    return PpoConfig(**({"start_batches": 20, "replay_steps": 4096, "lanes": 512} | changed))


def profile(
    folder: Path, requests: list[Request], correct: Callable[[Request, str], float]
) -> Profile:
    path = folder / "profile.parquet"
    write_profile(path, rows(requests, correct))
    return read_profile(path)


def chats(count: int, kinds: Mapping[str, str], seed: int = 0) -> list[Request]:
    """Return `count` requests of each kind; `kinds` maps a kind to a format string with {n}."""
    rng = np.random.default_rng(seed)
    return [
        Request(f"{kind}-{i}", kind, ({"role": "user", "content": text.format(n=n)},), str(n))
        for kind, text in kinds.items()
        for i, n in enumerate(rng.permutation(10 * count)[:count])
    ]


def bundle(
    folder: Path,
    logits: tuple[float, ...] = (0.0, 0.0, 50.0),
    model: str = "made",
    catalogue: Catalogue = DEFAULT_CATALOGUE,
    tasks: tuple[str, ...] = ("arithmetic",),
    extra: Mapping[str, Any] | None = None,
    weights: Mapping[tuple[int, str], float] | None = None,
    front: Front | None = None,
) -> Bundle:
    """Save and return a bundle whose policy follows `logits` and the weights of some features.

    Args:
        weights: by index of a directive and name of a feature.
    """
    featurizer = Featurizer(tasks)
    width = len(featurizer.names)
    weight = np.zeros((len(logits), width), dtype=np.float32)
    for (directive, feature), value in (weights or {}).items():
        weight[directive, featurizer.names.index(feature)] = value
    policy = Policy(
        np.zeros(width, dtype=np.float32),
        np.ones(width, dtype=np.float32),
        ((weight, np.array(logits, dtype=np.float32)),),
    )
    manifest = {"energy": {"joules_per_completion_token": 2.0}} | dict(extra or {})
    measured = Measured(front)
    return save_bundle(folder, policy, catalogue, featurizer, model, manifest, measured)


# Quality relative to L0 that a very brief answer keeps, by task of `priced_bundle`.
KEPT = {"faq": 0.9, "legal": 0.5}


def priced_bundle(
    folder: Path,
    floor: float = 0.95,
    zone: str = "SYNTHETIC",
    kept: Mapping[str, float] | None = None,
) -> Bundle:
    """Save and return a bundle whose policy answers very briefly unless the price is high.

    At price p it chooses L0 with odds p^2 to 1. Its front is that of tasks whose very brief
    answers keep the quality in `kept` (default `KEPT`).
    """
    kept = KEPT if kept is None else kept
    prices = np.geomspace(0.02, 100, 1025)
    of_l0 = prices**2 / (1 + prices**2)
    curves = {}
    for task, worth in kept.items():
        quality = (of_l0 + (1 - of_l0) * worth)[None]
        cost = (of_l0 + (1 - of_l0) * TOKENS["very_brief"] / TOKENS["none"])[None]
        for name in (task, untagged_name(task)):
            costs = dict.fromkeys(COSTS, TOKENS["none"] * cost)
            l0 = dict.fromkeys(COSTS, float(TOKENS["none"]))
            curves[name] = Curve(quality, 0 * quality, 0 * quality + 0.01, costs, l0, None, 100)
    return bundle(
        folder,
        (0.0, -50.0, 0.0),
        tasks=tuple(kept),
        extra={"floors": dict.fromkeys(kept, floor), "quality_l0": dict.fromkeys(kept, 0.8)},
        weights={(0, "log_price"): 2.0},
        front=Front(prices, np.array([0.01]), 1.0, 0.0, {zone: curves}),
    )
