"""Generation directives and their catalogue. The index in the catalogue is the action."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from envs.errors import DataError

Message = Mapping[str, Any]
# Names travel in HTTP headers and metric labels.
_NAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Directive:
    """What is added to a request to steer its answer.

    `text` goes after the caller's own system text; `max_tokens` lowers, never
    raises, the caller's cap on generated tokens. Discouraged words are part of
    the format (DESIGN: catalogue) and refused until an upstream is known to
    support them.
    """

    name: str
    text: str = ""
    max_tokens: int | None = None

    def messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The chat with this directive added; the caller's messages are not changed."""
        chat = [dict(message) for message in messages]
        if not self.text:
            return chat
        if chat and chat[0].get("role") in ("system", "developer"):
            chat[0]["content"] = _appended(chat[0].get("content"), self.text)
        else:
            chat.insert(0, {"role": "system", "content": self.text})
        return chat

    def body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat-completions body with this directive added."""
        steered = {**body, "messages": self.messages(body["messages"])}
        if self.max_tokens is not None:
            field = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
            asked = body.get(field)
            cap = self.max_tokens if asked is None else min(int(asked), self.max_tokens)
            steered[field] = cap
        return steered


def _appended(content: Any, text: str) -> Any:
    if isinstance(content, list):
        return [*content, {"type": "text", "text": text}]
    return f"{content} {text}" if content else text


@dataclass(frozen=True)
class Catalogue:
    """The directives that a policy chooses among; index 0 leaves the request alone."""

    directives: tuple[Directive, ...]

    def __post_init__(self) -> None:
        names = self.names
        if len(names) < 2 or len(set(names)) != len(names):
            raise DataError("catalogue", f"names {list(names)}", "give two or more, all different")
        first = self.directives[0]
        if first.text or first.max_tokens is not None:
            raise DataError(
                "catalogue",
                f"the first directive {first.name!r} changes the request",
                "the first must have an empty text and no max_tokens",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Directive names in action order."""
        return tuple(directive.name for directive in self.directives)

    def __len__(self) -> int:
        return len(self.directives)

    def __getitem__(self, action: int) -> Directive:
        return self.directives[action]

    def to_rows(self) -> list[dict[str, Any]]:
        """Plain rows, as YAML and the policy bundle hold them."""
        return [
            {"name": d.name, "text": d.text}
            | ({} if d.max_tokens is None else {"max_tokens": d.max_tokens})
            for d in self.directives
        ]

    @classmethod
    def from_rows(cls, rows: Any, source: Path | str) -> "Catalogue":
        """Build from plain rows; a wrong field is named with its row."""
        if not isinstance(rows, list):
            raise DataError(source, "not a list of directives", "give rows with name and text")
        directives = []
        for number, row in enumerate(rows, 1):
            known = isinstance(row, dict) and "name" in row
            if not known or set(row) - {"name", "text", "max_tokens"}:
                raise DataError(
                    source,
                    f"directive {number} has fields {row!r}",
                    "it takes name, text and optionally max_tokens",
                )
            name, text = row["name"], row.get("text", "")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise DataError(
                    source, f"directive {number} name {name!r}", "use letters, digits, _ . -"
                )
            if not isinstance(text, str):
                raise DataError(source, f"directive {number} text {text!r}", "give text")
            cap = row.get("max_tokens")
            if cap is not None and (not isinstance(cap, int) or cap < 1):
                raise DataError(source, f"directive {number} max_tokens {cap!r}", "give 1 or more")
            directives.append(Directive(name, text, cap))
        return cls(tuple(directives))


# SPROUT (Li et al., EMNLP 2024), section 4: levels L0, L1 and L2.
DEFAULT_CATALOGUE = Catalogue(
    (
        Directive("none"),
        Directive("brief", "Always answer briefly."),
        Directive("very_brief", "Always answer very briefly."),
    )
)


def read_catalogue(path: Path | None) -> Catalogue:
    """The YAML catalogue at `path`, or the paper's three directives."""
    if path is None:
        return DEFAULT_CATALOGUE
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(path, f"cannot be read ({error})", "give a YAML catalogue") from error
    return Catalogue.from_rows(rows, path)
