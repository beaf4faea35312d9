"""What a training leaves on record beside its policy: inputs, figures, versions."""

import importlib.metadata
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.training.ppo import Trained
from envs.carbon.intensity import IntensityTrace
from envs.outcomes.profile import Profile, fingerprint

VERSIONED = ("numpy", "torch", "stable-baselines3", "gymnasium", "transformers", "safetensors")
TASK_COLUMNS = ("task", "quality_ratio", "lower_bound", "multiplier", "directive_share")


def inputs(profile: Profile, trace: IntensityTrace) -> dict[str, str]:
    """Digests of what a policy is made of: the lineage, where artifacts cannot be linked."""
    return {
        "profile_sha256": fingerprint(profile),
        "intensity_sha256": trace.sha256,
        "intensity_zone": trace.zone,
    }


def by_task(trained: Trained, directives: Sequence[str]) -> list[list[Any]]:
    """Rows of `TASK_COLUMNS`."""
    found = trained.validation
    return [
        [
            task,
            ratio,
            found.bound_by_task[task],
            trained.multipliers[task],
            ", ".join(
                f"{name} {share:.3f}"
                for name, share in zip(directives, found.share_by_task[task], strict=True)
            ),
        ]
        for task, ratio in found.ratio_by_task.items()
    ]


def figures(trained: Trained) -> dict[str, Any]:
    """The policy's on validation prompts.

    `objective` is one number for a sweep to make small: the footprint relative to L0, or,
    where a floor or limit was missed, more than 1 by how far.
    """
    found = trained.validation
    return {
        "grams_ratio": found.grams_ratio,
        "quality_ratio_by_task": found.ratio_by_task,
        "directive_share": list(found.share),
        "latency_overshoot": found.overshoot,
        "latency_overshoot_bound": found.overshoot_bound,
        "worst_margin": found.worst_margin,
        "objective": found.grams_ratio if trained.floors_kept else 1 - found.worst_margin,
    }


def versions() -> dict[str, str | None]:
    """Of the libraries that a policy depends on."""
    return {name: _version(name) for name in VERSIONED}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Of this checkout; None where it is none."""
    root = Path(__file__).resolve().parents[2]
    # An installed package may lie inside somebody else's repository.
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
