"""The record that a training keeps of its inputs, figures and library versions."""

import importlib.metadata
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agents.training.ppo import Trained
from envs.carbon.intensity import IntensityTrace
from envs.outcomes.profile import Profile, fingerprint

VERSIONED = ("numpy", "torch", "stable-baselines3", "gymnasium", "transformers", "safetensors")
TASK_COLUMNS = ("task", "quality_ratio", "lower_bound", "price", "directive_share")


def inputs(profile: Profile, trace: IntensityTrace) -> dict[str, str]:
    """Return digests of a policy's inputs: its lineage where artifacts cannot be linked."""
    return {
        "profile_sha256": fingerprint(profile),
        "intensity_sha256": trace.sha256,
        "intensity_zone": trace.zone,
    }


def by_task(trained: Trained, directives: Sequence[str]) -> list[list[Any]]:
    """Return each task's quality ratio, bound, price and directive shares (`TASK_COLUMNS`)."""
    validation = trained.validation
    return [
        [
            task,
            ratio,
            validation.bound_by_task[task],
            validation.prices[task],
            ", ".join(
                f"{name} {share:.3f}"
                for name, share in zip(directives, validation.share_by_task[task], strict=True)
            ),
        ]
        for task, ratio in validation.ratio_by_task.items()
    ]


def figures(trained: Trained) -> dict[str, Any]:
    """Return the policy's figures on the training prompts' own verdicts, at its floors' prices.

    `objective` is one number for a sweep to minimise: the footprint relative to L0, or, if a
    floor or limit was missed, 1 plus the size of the largest miss.
    """
    validation = trained.validation
    objective = validation.grams_ratio
    if validation.missed:
        objective = 1 + max(validation.missed.values())
    return {
        "grams_ratio": validation.grams_ratio,
        "quality_ratio_by_task": validation.ratio_by_task,
        "directive_share": list(validation.share),
        "latency_overshoot_bound": validation.overshoot_bound,
        "objective": objective,
        "missed": validation.missed,
        "start": None if trained.start is None else asdict(trained.start),
    }


def versions() -> dict[str, str | None]:
    """Return the installed version of each library in `VERSIONED`, or None if it is missing."""
    return {name: _version(name) for name in VERSIONED}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Git commit of this checkout, or None outside a repository."""
    root = Path(__file__).resolve().parents[2]
    # Git would search parent folders, and an installed package may lie in another repository.
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return result.stdout.strip() or None
