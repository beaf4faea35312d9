"""Reading of YAML files that users write, with one clear error when a file cannot be read."""

from pathlib import Path
from typing import Any

import yaml

from envs.errors import DataError

# The parser in C, where the library has it, is ten times as fast.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, remedy: str) -> Any:
    """Return the content of a YAML file, or None if the file is empty.

    Args:
        remedy: what the user should give instead; it ends the error message.

    Raises:
        DataError: the file cannot be read or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506, both are safe
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(path, f"cannot be read ({error})", remedy) from error
