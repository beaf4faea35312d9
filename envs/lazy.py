"""Lazy public names of a package: each is imported when it is first used (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_getattr(modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports each public name from its module.

    Args:
        modules: public name -> full name of the module that defines it.
    """

    def lookup(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"no public name {name!r}; one of {', '.join(modules)}")
        return getattr(importlib.import_module(modules[name]), name)

    return lookup
