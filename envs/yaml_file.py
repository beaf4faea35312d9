"""Reading of YAML files that users write, with one clear error when a file cannot be read."""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from envs.errors import DataError

# The parser in C, where the library has it, is ten times as fast.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Types plain words as YAML 1.2 does (core schema, section 10.3.2).

    By YAML 1.1, the words on, off, yes and no are booleans, 2024-01-01 is a date, 1_000 and 1:30
    are numbers, and 010 is 8: none is what a person means who writes a mode, a zone or a time.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def _construct_int(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    base = 16 if "0x" in text else 8 if "0o" in text else 10
    return int(text, base)


for tag, pattern, first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


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
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        place = "" if mark is None else f"line {mark.line + 1}: "
        raise DataError(path, f"cannot be read ({place}{problem})", remedy) from error
