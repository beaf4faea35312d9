"""Training that continues from a finished bundle on a live server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.policy.bundle import load_bundle
from agents.training.config import PpoConfig
from agents.training.ppo import Costs
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.limits import Limit
from envs.outcomes.objective import WEIGHTS, Objective
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
    """Return a training job that continues where the bundle's training ended.

    Args:
        folder: folder of the bundle.
        profile, catalogue, trace: the inputs from which the bundle was made.
        changed: hyperparameters that replace those of the bundle.

    Raises:
        ConfigError: the bundle was made from other inputs, or not by `sprout train`.
    """
    bundle = load_bundle(folder)
    manifest = bundle.manifest
    try:
        same_profile = manifest["data"]["fingerprint"] == fingerprint(profile)
        same_hours = manifest["intensity"]["sha256"] == trace.sha256
        settings = manifest["training"]
        tuples = {name: tuple(settings[name]) for name in ("without", "price_range")}
        config = PpoConfig(**{**settings, **tuples, **changed})
        limits = {task: Limit(**limit) for task, limit in manifest["limits"].items()}
        floors, quality = dict(manifest["floors"]), manifest["quality"]
        objective = Objective.from_manifest(manifest["objective"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"--from {folder}: manifest.json has no usable {error}; give a bundle of `sprout train`"
        ) from error
    if not same_profile:
        raise ConfigError(
            f"--from {folder}: the bundle was trained on another profile; give the --outcomes, "
            "--model and --hold-out of its training"
        )
    if not same_hours:
        raise ConfigError(
            f"--from {folder}: the bundle was trained on other hours (zone "
            f"{manifest['intensity']['zone']}); give the --intensity and --zone of its training"
        )
    if catalogue.to_rows() != bundle.catalogue.to_rows():
        raise ConfigError(
            f"--from {folder}: the bundle was trained on other directives; give the --directives "
            "of its training"
        )
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
        costs=Costs({name: getattr(objective, name) for name in WEIGHTS}, objective.tariff),
        start=bundle,
        vectors=vectors,
    )
