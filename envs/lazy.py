"""Public names of a package, each imported when it is first used (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def public(homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that imports public names from their home modules.

    Args:
        homes: module of each name.
    """

    def lookup(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"no public name {name!r}; one of {', '.join(homes)}")
        return getattr(importlib.import_module(homes[name]), name)

    return lookup
