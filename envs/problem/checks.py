"""Checks of an environment's plain arguments, each with a clear error."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import ConfigError


def number(name: str, value: Any, kind: str, *, most: float = np.inf, above: bool = False) -> float:
    """Return a finite number of 0 to `most`.

    Args:
        name: the argument's name.
        kind: words that say what would be right.
        above: whether 0 itself is refused.

    Raises:
        ConfigError: it is no number, or out of range.
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not 0 <= value <= most or value == np.inf or (above and value == 0):
        raise ConfigError(f"{name} {value!r}: give {kind}")
    return float(value)


def positive_range(name: str, value: Any) -> None:
    """Raise ConfigError unless the value is two finite numbers above 0, the lower one first."""
    pair = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    remedy = "two numbers above 0, the lower one first"
    if len(pair) != 2:
        raise ConfigError(f"{name} {value!r}: give {remedy}")
    low, high = (number(name, each, remedy, above=True) for each in pair)
    if not low < high:
        raise ConfigError(f"{name} {value!r}: give {remedy}")


def path(name: str, value: Any) -> Path:
    """Return a path; raise ConfigError if the value is no path."""
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name} {value!r}: give the path of a file or folder")
    return Path(value)


def paths(name: str, value: Any) -> list[Path]:
    """Return one path or several as a list; None gives an empty list.

    A number counts as a path: files of carbon intensity may be replaced by a constant.

    Raises:
        ConfigError: the value is neither a path nor a sequence of paths.
    """
    if value is None:
        return []
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [Path(str(value))]
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return [path(name, each) for each in (value if several else [value])]


def text_or_none(argument: str, value: Any) -> None:
    """Raise ConfigError unless the value is text or None."""
    if not isinstance(value, str | None):
        raise ConfigError(f"{argument} {value!r}: give a name, or None")


def choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ConfigError unless the value is one of the choices."""
    if value not in choices:
        raise ConfigError(f"{name} {value!r}: give one of {', '.join(choices)}")


def episode_steps(value: Any) -> int | None:
    """Return the number of steps of an episode, or None for no end (None or -1, as in Gymnasium).

    Raises:
        ConfigError: it is no whole number above 0.
    """
    if value is None or value == -1:
        return None
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ConfigError(f"max_episode_steps {value!r}: give a whole number, 1 or more")
    return int(value)
