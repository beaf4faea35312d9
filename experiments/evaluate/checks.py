"""Selection of the requests to evaluate, and warnings for the reader of an evaluation."""

from collections.abc import Mapping, Sequence

import numpy as np

from agents.methods.scene import Scene
from agents.policy.bundle import Bundle
from envs.arrays import BoolArray
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.mix import Mix


def unseen_only(profile: Profile, bundles: Mapping[str, Bundle]) -> Profile:
    """Return the requests whose prompts no bundle was trained on.

    Raises:
        ConfigError: no request is left.
    """
    training_hashes = frozenset[str]().union(*(bundle.prompt_hashes for bundle in bundles.values()))
    rows = [i for i, r in enumerate(profile.requests) if r.prompt_hash not in training_hashes]
    if not rows:
        raise ConfigError(
            "--unseen: every prompt was a training prompt; give --outcomes with other prompts"
        )
    return profile.select(rows)


def known_tasks(profile: Profile, quality: str) -> tuple[str, ...]:
    """Return the tasks with at least one request whose quality is known under every directive."""
    known = _known(profile, quality)
    return tuple(task for task in profile.tasks if known[profile.rows_of(task)].any())


def left_out(profile: Profile, scene: Scene, mix: Mix | None) -> Sequence[str]:
    """Return warnings about requests missing from the scene and about a mix that was changed."""
    known = _known(profile, scene.quality)
    tasks = known_tasks(profile, scene.quality)
    unknown_tasks = [task for task in profile.tasks if task not in tasks]
    warnings = []
    if not known.all():
        detail = f", including all of {', '.join(unknown_tasks)}" if unknown_tasks else ""
        warnings.append(
            f"the {scene.quality} of {int((~known).sum())} requests is not known under every "
            f"directive{detail}: these requests are left out of ratios and savings"
        )
    if mix is None:
        return warnings
    lost = sum(mix.shares[:, mix.tasks.index(t)].mean() for t in unknown_tasks if t in mix.tasks)
    if lost > 0:
        warnings.append(
            f"{100 * lost:.0f}% of the mix belongs to tasks that are left out; the other tasks "
            "share it"
        )
    hours = int(scene.hours.max()) + 1
    if 1 < len(mix.shares) < hours:
        warnings.append(f"the mix has {len(mix.shares)} hours and is repeated over {hours} hours")
    unused = int(known.sum()) - len(scene)
    if unused:
        warnings.append(
            f"{unused} requests are left out: the mix has a share of 0 for their task in their hour"
        )
    return warnings


def overlaps(bundles: Mapping[str, Bundle], scene: Scene) -> Sequence[str]:
    """Return warnings about evaluated training prompts and about bundles of other models."""
    hashes = {request.prompt_hash for request in scene.profile.requests}
    warnings = []
    for name, bundle in bundles.items():
        shared = len(hashes & bundle.prompt_hashes)
        if shared:
            warnings.append(
                f"{shared} of {len(hashes)} evaluated prompts were training prompts of policy "
                f"{name}: its figures do not hold for new prompts"
            )
        if bundle.model != scene.profile.model:
            warnings.append(
                f"policy {name} was trained for {bundle.model}, but the outcomes are of "
                f"{scene.profile.model}"
            )
    return warnings


def _known(profile: Profile, quality: str) -> BoolArray:
    """Mask of the requests whose quality is known under every directive, shape (R,)."""
    return np.asarray(~np.isnan(profile.quality(quality)).any(axis=1), dtype=np.bool_)
