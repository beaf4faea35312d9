"""The error tree. Each message names the thing that is wrong and what would be right.

SproutError
├── ConfigError      a setting, flag or environment variable
├── DataError        a file we read: profile, trace, catalogue
├── UnitError        a value that can only be in another unit
├── BundleError      a policy bundle
├── MeterError       an energy meter
└── UpstreamError    the LLM server
"""

from pathlib import Path


class SproutError(Exception):
    """Base of all errors that a user can cause or mend."""


class ConfigError(SproutError):
    """A setting, flag or environment variable is wrong."""


class DataError(SproutError):
    """A data file is wrong.

    Args:
        source: the file.
        problem: what is wrong, with row and field where they are known.
        remedy: what would be right.
    """

    def __init__(self, source: Path | str, problem: str, remedy: str) -> None:
        super().__init__(f"{source}: {problem}; {remedy}")


class UnitError(SproutError):
    """A value is absurd: it is in another unit than the one asked for."""


class BundleError(SproutError):
    """A policy bundle is missing, damaged, or does not fit."""


class MeterError(SproutError):
    """An energy meter cannot be read."""


class UpstreamError(SproutError):
    """The LLM server refused, failed, or cannot be reached."""
