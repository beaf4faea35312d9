"""What is left out of an evaluation, and what a reader has to be warned of."""

from collections.abc import Mapping, Sequence

import numpy as np

from agents.methods.scene import Scene
from agents.policy.bundle import Bundle
from envs.arrays import BoolArray
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.mix import Mix


def unseen_only(profile: Profile, bundles: Mapping[str, Bundle]) -> Profile:
    """The requests that no bundle was trained on.

    Raises:
        ConfigError: there are none.
    """
    seen = frozenset[str]().union(*(bundle.prompt_hashes for bundle in bundles.values()))
    rows = [i for i, r in enumerate(profile.requests) if r.prompt_hash not in seen]
    if not rows:
        raise ConfigError("--unseen: every prompt was a training prompt; give others")
    return profile.select(rows)


def known_tasks(profile: Profile, quality: str) -> tuple[str, ...]:
    """Tasks of which some request's quality is known under every directive."""
    known = _known(profile, quality)
    return tuple(task for task in profile.tasks if known[profile.rows_of(task)].any())


def left_out(profile: Profile, scene: Scene, mix: Mix | None) -> Sequence[str]:
    """Warnings of requests that are not in the scene, and of a mix that is not as asked."""
    known = _known(profile, scene.quality)
    tasks = known_tasks(profile, scene.quality)
    without = [task for task in profile.tasks if task not in tasks]
    warnings = []
    if not known.all():
        whole = f", all of {', '.join(without)}" if without else ""
        warnings.append(
            f"{int((~known).sum())} requests have no known {scene.quality} under every "
            f"directive{whole}: they are left out of ratios and of savings"
        )
    if mix is None:
        return warnings
    lost = sum(mix.shares[:, mix.tasks.index(t)].mean() for t in without if t in mix.tasks)
    if lost > 0:
        warnings.append(f"{100 * lost:.0f}% of the mix is of tasks left out; it goes to the others")
    hours = int(scene.hours.max()) + 1
    if 1 < len(mix.shares) < hours:
        warnings.append(f"the mix has {len(mix.shares)} hours and is repeated over {hours}")
    unasked = int(known.sum()) - len(scene)
    if unasked:
        warnings.append(f"{unasked} requests are left out: the mix gives their hour none of them")
    return warnings


def overlaps(bundles: Mapping[str, Bundle], scene: Scene) -> Sequence[str]:
    """Warnings of prompts that bundles were trained on, and of other models' bundles."""
    hashes = {request.prompt_hash for request in scene.profile.requests}
    warnings = []
    for name, bundle in bundles.items():
        shared = len(hashes & bundle.prompt_hashes)
        if shared:
            warnings.append(
                f"{shared} of {len(hashes)} evaluated prompts were training prompts of policy "
                f"{name}: its figures are not those of new prompts"
            )
        if bundle.model != scene.profile.model:
            warnings.append(
                f"policy {name} was trained for {bundle.model}, the outcomes are of "
                f"{scene.profile.model}"
            )
    return warnings


def _known(profile: Profile, quality: str) -> BoolArray:
    return np.asarray(~np.isnan(profile.quality(quality)).any(axis=1), dtype=np.bool_)
