"""A policy bundle's folder, fetched first where it is kept in Weights & Biases."""

import os
import re
from pathlib import Path

from envs.errors import ConfigError

PREFIX = "wandb:"
NAME = re.compile(r"[\w.-]+/[\w.-]+/[\w.-]+:[\w.-]+")


def bundle_folder(given: str) -> Path:
    """The folder of a bundle given as a path or as wandb:ENTITY/PROJECT/NAME:ALIAS.

    An artifact is kept in the user's cache by its version; the bundle's own hashes are
    checked when it is loaded.

    Raises:
        ConfigError: the name is malformed, wandb is not installed, or it cannot be fetched.
    """
    if not given.startswith(PREFIX):
        return Path(given)
    name = given.removeprefix(PREFIX)
    if not NAME.fullmatch(name):
        raise ConfigError(f"--policy {given}: give wandb:ENTITY/PROJECT/NAME:ALIAS")
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--policy {given}: wandb is not installed; pip install 'sprout-rl[wandb]'"
        ) from error
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        artifact = wandb.Api().artifact(name, type="policy")
        folder = cache / "sprout-rl" / f"{name.rpartition(':')[0]}-{artifact.version}"
        return Path(artifact.download(root=str(folder)))
    except (wandb.Error, ValueError, OSError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"--policy {given}: cannot be fetched ({problem})") from error
