"""Folders of policy bundles, downloaded first if they are stored in Weights & Biases."""

import os
import re
from pathlib import Path

from envs.errors import ConfigError

PREFIX = "wandb:"
NAME = re.compile(r"[\w.-]+/[\w.-]+/[\w.-]+:[\w.-]+")


def bundle_folder(policy: str) -> Path:
    """Return the folder of a policy bundle, downloading it if it is a W&B artifact.

    An artifact is stored in the user's cache by its version. The bundle's hashes are verified
    when it is loaded.

    Args:
        policy: a path, or wandb:ENTITY/PROJECT/NAME:ALIAS.

    Raises:
        ConfigError: the name is malformed, wandb is not installed, or the artifact cannot be
            fetched.
    """
    if not policy.startswith(PREFIX):
        return Path(policy)
    name = policy.removeprefix(PREFIX)
    if not NAME.fullmatch(name):
        raise ConfigError(f"--policy {policy}: give wandb:ENTITY/PROJECT/NAME:ALIAS")
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--policy {policy}: wandb is not installed; pip install 'sprout-rl[wandb]'"
        ) from error
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        artifact = wandb.Api().artifact(name, type="policy")
        folder = cache / "sprout-rl" / f"{name.rpartition(':')[0]}-{artifact.version}"
        return Path(artifact.download(root=str(folder)))
    except (wandb.Error, ValueError, OSError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"--policy {policy}: cannot be fetched ({problem})") from error
