"""Recognises requests whose answer has a fixed format, from the list in fixed_formats.yaml."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from envs.yaml_file import read_yaml

FILE = Path(__file__).with_name("fixed_formats.yaml")
# Objects whose members the servers treat like fields of the body.
_NESTED = ("chat_template_kwargs", "extra_body")


class _Field(NamedTuple):
    """When a field counts: see the head of the file."""

    unset: str
    neutral: tuple[Any, ...]

    def counts(self, value: Any) -> bool:
        if value is None or any(_includes(value, neutral) for neutral in self.neutral):
            return False
        if self.unset == "true":
            return value is not True
        return self.unset == "null" or not (value is False or value in ("", [], {}))


def has_fixed_format(body: Mapping[str, Any]) -> bool:
    """Return whether a field of a request's body makes a directive unsafe."""
    fields = known_fields()
    if not fields.keys().isdisjoint(body) and any(
        fields[name].counts(body[name]) for name in fields.keys() & body.keys()
    ):
        return True
    return any(has_fixed_format(nested) for nested in _nested(body))


@cache
def known_fields() -> Mapping[str, _Field]:
    """Return the fields of the file by name.

    Raises:
        DataError: the file cannot be read.
    """
    rows = read_yaml(FILE, "install the package again")
    return {
        name: _Field(row.get("unset", "empty"), tuple(row.get("neutral", ())))
        for row in rows
        for name in row["fields"]
    }


def _nested(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    values = [body[name] for name in _NESTED if name in body]
    return [value for value in values if isinstance(value, Mapping)]


def _includes(value: Any, neutral: Any) -> bool:
    """Return whether a value equals the neutral one; further members of an object do not matter."""
    if isinstance(neutral, Mapping):
        return isinstance(value, Mapping) and all(
            value.get(name) == member for name, member in neutral.items()
        )
    return bool(value == neutral)
