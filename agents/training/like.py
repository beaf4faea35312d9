"""The problem that a bundle was trained on, for the environments' argument `like`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.policy.bundle import Bundle, load_bundle
from agents.training.config import TAG_SHARE
from agents.training.prepared import prepare
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.floors import floor_schedule
from envs.outcomes.limits import Limit
from envs.outcomes.profile import Profile, fingerprint
from envs.outcomes.reward import Reward
from envs.problem import Problem
from envs.requests.projection import EncodedProjection


def replay_like(folder: Path, profile: Profile, trace: IntensityTrace, split: str) -> Problem:
    """Return a bundle's problem on the replay of its profile.

    Args:
        folder: the bundle, made by `sprout train`.
        profile: the profile that it was trained on; may hold further prompts.
        trace: carbon intensity of the environment's hours.
        split: "train" for the bundle's training prompts, with cross-fitted features and outcomes;
            "held_out" for all others, with the outcomes that were measured.

    Raises:
        ConfigError: the bundle does not say what it was trained on, or the profile is another.
    """
    manifest = _Manifest.of(load_bundle(folder), folder)
    bundle = manifest.bundle
    if split == "all":
        raise ConfigError(
            "split 'all': with like, a training prompt is rewarded by predictions and another one "
            "by its own outcome; give split 'train' or 'held_out'"
        )
    if profile.directives != bundle.catalogue.names:
        raise ConfigError(
            f"like {folder}: the bundle chooses among {', '.join(bundle.catalogue.names)}, the "
            f"profile has {', '.join(profile.directives)}"
        )
    hashes = set(manifest.fields["data"]["prompt_hashes"])
    trained_on = np.array([request.prompt_hash in hashes for request in profile.requests])
    reward = manifest.reward(trace)
    if split == "held_out":
        others = profile.select(~trained_on)
        if not others.requests:
            raise ConfigError(
                f"like {folder}, split 'held_out': the bundle was trained on every prompt of the "
                "profile; train it with --hold-out"
            )
        return Problem(bundle.featurizer, reward, others, tag_share=TAG_SHARE)
    prompts = profile.select(trained_on)
    if not prompts.requests or fingerprint(prompts) != manifest.fingerprint:
        raise ConfigError(
            f"like {folder}: the bundle was trained on another profile; give the --outcomes of its "
            "training"
        )
    text = bundle.featurizer.text
    prepared = prepare(
        prompts,
        reward.floors,
        float(trace.g_per_kwh.mean()),
        quality=reward.quality,
        floor_on=manifest.floor_on,
        seed=manifest.seed,
        vectors=text.vectors if isinstance(text, EncodedProjection) else None,
    )
    return Problem(bundle.featurizer, reward, prepared.expected, prepared.parts, TAG_SHARE)


def live_like(folder: Path, trace: IntensityTrace) -> Problem:
    """Return a bundle's problem on a live server.

    Args and raises: as `replay_like`.
    """
    manifest = _Manifest.of(load_bundle(folder), folder)
    if (quality := manifest.reward(trace).quality) != "correct":
        raise ConfigError(
            f"like {folder}: the bundle keeps {quality}, which live answers do not have, because "
            "no judge compares them"
        )
    return Problem(
        manifest.bundle.featurizer,
        manifest.reward(trace),
        tag_share=TAG_SHARE,
        catalogue=manifest.bundle.catalogue,
    )


@dataclass(frozen=True)
class _Manifest:
    """The problem of a bundle, as its manifest describes it."""

    bundle: Bundle
    fields: Mapping[str, Any]
    fingerprint: str
    seed: int
    floor_on: str
    slack: float

    @classmethod
    def of(cls, bundle: Bundle, folder: Path) -> "_Manifest":
        fields = bundle.manifest
        try:
            training = fields["training"]
            for name in (*_REWARD, "limits"):
                _ = fields[name]
            return cls(
                bundle,
                fields,
                str(fields["data"]["fingerprint"]),
                int(training["seed"]),
                str(training["floor_on"]),
                float(training["floor_slack"]),
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"like {folder}: manifest.json has no usable {error}; give a bundle of "
                "`sprout train`"
            ) from error

    def reward(self, trace: IntensityTrace) -> Reward:
        limits = {task: Limit(**limit) for task, limit in self.fields["limits"].items()}
        reward = Reward(
            **{name: self.fields[name] for name in _REWARD},
            limits=limits,
            floor_schedule=floor_schedule(trace, self.slack),
        )
        limited = [name for name in reward.constraints if name not in reward.floors]
        reward.latency_prices = dict.fromkeys(limited, 0.0)
        reward.set_multipliers(self.fields["multipliers"])
        return reward


_REWARD = ("footprint_ref_grams", "quality_l0", "floors", "quality")
