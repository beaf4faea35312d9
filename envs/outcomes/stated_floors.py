"""Quality floors as people state them: a ratio, TASK=RATIO pairs, or a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.errors import ConfigError
from envs.yaml_file import read_yaml

# Stands for every task that is not named.
ANY_TASK = "*"
REMEDY = "a ratio of L0's quality, TASK=RATIO,... or a YAML file of TASK: RATIO lines"


def floors_file(text: str) -> Path | None:
    """Return the file that a statement of floors names; None if it states them itself."""
    is_ratio = isinstance(_number(text), float)
    return None if is_ratio or ("=" in text and not Path(text).exists()) else Path(text)


def read_floors(text: str, flag: str = "--floor") -> dict[str, float]:
    """Return floors by task; `ANY_TASK` stands for all tasks that are not named.

    Args:
        text: the statement.
        flag: where it comes from, for error messages.

    Raises:
        ConfigError: the statement is wrong; the message names the task.
        DataError: its file cannot be read.
    """
    path = floors_file(text)
    rows: Any
    if path is not None:
        rows = read_yaml(path, f"give {flag} {REMEDY}")
    elif "=" in text:
        pairs = [pair.partition("=") for pair in text.split(",")]
        rows = {task.strip(): _number(ratio) for task, _, ratio in pairs}
    else:
        rows = {ANY_TASK: _number(text)}
    if not isinstance(rows, Mapping) or not rows:
        raise ConfigError(f"{flag} {text}: give {REMEDY}")
    floors = {str(task): ratio for task, ratio in rows.items()}
    for task, ratio in floors.items():
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise ConfigError(f"{flag} {text}: {task} is {ratio}; give a ratio from 0 to 1")
    return floors


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text.strip()
