"""A training that goes on from a finished bundle, on a live server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.policy.bundle import load_bundle
from agents.training.config import PpoConfig
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.limits import Limit
from envs.outcomes.profile import Profile, fingerprint
from envs.requests.directive import Catalogue
from envs.requests.projection import EncodedProjection
from experiments.train.job import TrainingJob


def continuing(
    folder: Path,
    profile: Profile,
    catalogue: Catalogue,
    trace: IntensityTrace,
    changed: Mapping[str, Any],
) -> TrainingJob:
    """The training that made the bundle, to go on where it ended.

    Args:
        profile, catalogue: the very ones that it was made from.
        changed: hyperparameters that are to differ from the bundle's.

    Raises:
        ConfigError: it was made from others, or not by `sprout train`.
    """
    bundle = load_bundle(folder)
    manifest = bundle.manifest
    try:
        same = manifest["data"]["fingerprint"] == fingerprint(profile)
        same_grid = manifest["intensity"]["sha256"] == trace.sha256
        settings = {**manifest["training"], "without": tuple(manifest["training"]["without"])}
        config = PpoConfig(**{**settings, **changed})
        limits = {task: Limit(**limit) for task, limit in manifest["limits"].items()}
        floors, quality = dict(manifest["floors"]), manifest["quality"]
        _ = manifest["multipliers"]
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"--from {folder}: its manifest has no usable {error}; give a bundle of `sprout train`"
        ) from error
    if not same:
        raise ConfigError(
            f"--from {folder}: it was trained on another profile; give the same --outcomes, "
            "--model and --hold-out as then"
        )
    if not same_grid:
        raise ConfigError(
            f"--from {folder}: it was trained on other hours (zone "
            f"{manifest['intensity']['zone']}); give the same --intensity and --zone as then"
        )
    if catalogue.to_rows() != bundle.catalogue.to_rows():
        raise ConfigError(f"--from {folder}: it was trained on other --directives; give those")
    text = bundle.featurizer.text
    vectors = text.vectors if isinstance(text, EncodedProjection) else None
    return TrainingJob(
        profile=profile,
        catalogue=catalogue,
        trace=trace,
        floors=floors,
        config=config,
        quality=quality,
        limits=limits,
        start=bundle,
        vectors=vectors,
    )
