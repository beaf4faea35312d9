"""The error tree. Each message names the file, flag or field, what is wrong, and the remedy.

SproutError
├── ConfigError      a setting, flag or environment variable
├── DataError        a data file: profile, trace, catalogue
├── UnitError        a value that must be in another unit
├── BundleError      a policy bundle
├── LedgerError      the ledger's database
├── MeterError       an energy meter
└── UpstreamError    the LLM server
"""

from pathlib import Path


class SproutError(Exception):
    """Base class of all errors that a user can cause or correct."""


class ConfigError(SproutError):
    """A setting, flag or environment variable is wrong."""


class DataError(SproutError):
    """A data file is wrong.

    Args:
        source: the file.
        problem: what is wrong, with row and field if they are known.
        remedy: what would be right.
    """

    def __init__(self, source: Path | str, problem: str, remedy: str) -> None:
        super().__init__(f"{source}: {problem}; {remedy}")


class UnitError(SproutError):
    """A value is implausible in the expected unit, so it must be in another unit."""


class BundleError(SproutError):
    """A policy bundle is missing, damaged, or does not fit."""


class LedgerError(SproutError):
    """The ledger's database cannot be reached, is locked, or has another schema."""


class MeterError(SproutError):
    """An energy meter cannot be read."""


class UpstreamError(SproutError):
    """The LLM server refused a request, failed, or cannot be reached."""
