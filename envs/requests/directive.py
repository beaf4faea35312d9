"""Generation directives and their catalogue. A directive's index in the catalogue is its action."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from envs.errors import DataError
from envs.yaml_file import read_yaml

Message = Mapping[str, Any]
# Directive names appear in HTTP headers and metric labels.
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_FIELDS = frozenset(("name", "text", "max_tokens", "place"))
SYSTEM_ROLES = ("system", "developer")
# Fields of a chat-completions body that cap the generated tokens.
CHAT_CAPS = ("max_completion_tokens", "max_tokens")
# Where a directive's text stands: after the system text, or after the last user message, for models
# whose chat template knows no system role.
Place = Literal["system", "user"]


@dataclass(frozen=True)
class Directive:
    """An addition to a request that steers its answer.

    Attributes:
        name: letters, digits, "_", "." and "-".
        text: instruction for the model; empty for none.
        max_tokens: upper limit for the caller's cap on generated tokens, tokens; it lowers
            the cap and never raises it. None leaves the cap unchanged.
        place: "system" puts the text after the caller's own system text, "user" after the last
            user message.
    """

    name: str
    text: str = ""
    max_tokens: int | None = None
    place: Place = "system"

    def messages(self, messages: Sequence[Message], part: str = "text") -> list[dict[str, Any]]:
        """Return a copy of the chat with this directive added.

        With place "system" it is appended to the last of the chat's leading system messages, so
        that a server's cached prefix of these messages stays valid.

        Args:
            part: the `type` of a text part, for messages whose content is a list of parts.
        """
        chat = [dict(message) for message in messages]
        if not self.text:
            return chat
        if self.place == "user":
            position = next((i for i in range(len(chat))[::-1] if chat[i].get("role") == "user"), 0)
        else:
            position = -1
            while position + 1 < len(chat) and chat[position + 1].get("role") in SYSTEM_ROLES:
                position += 1
        if position < 0:
            return [{"role": "system", "content": self.text}, *chat]
        content = chat[position].get("content")
        if isinstance(content, list):
            chat[position]["content"] = [*content, {"type": part, "text": self.text}]
        else:
            chat[position]["content"] = self.after(content)
        return chat

    def after(self, caller_text: str | None) -> str:
        """Return the caller's text, if any, followed by the directive's text."""
        gap = " " if self.place == "system" else "\n\n"
        return f"{caller_text}{gap}{self.text}" if caller_text else self.text

    def body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the chat-completions body with this directive added."""
        return self.capped({**body, "messages": self.messages(body["messages"])}, CHAT_CAPS)

    def capped(self, body: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
        """Return the body with its cap on generated tokens lowered to the directive's.

        A cap that is already lower stays as it is.

        Args:
            fields: possible fields of the cap. The first one that the body sets is used; if it
                sets none, the last one is added.
        """
        if self.max_tokens is None:
            return body
        field = next((name for name in fields if body.get(name) is not None), fields[-1])
        cap = body.get(field)
        if cap is not None and int(cap) <= self.max_tokens:
            return body
        return {**body, field: self.max_tokens}


@dataclass(frozen=True)
class Catalogue:
    """The directives that a policy chooses among. Index 0 leaves the request unchanged."""

    directives: tuple[Directive, ...]

    def __post_init__(self) -> None:
        names = self.names
        if len(names) < 2 or len(set(names)) != len(names):
            raise DataError(
                "catalogue", f"directive names {list(names)}", "give two or more, all different"
            )
        first = self.directives[0]
        if first.text or first.max_tokens is not None:
            raise DataError(
                "catalogue",
                f"the first directive {first.name!r} changes the request",
                "give it an empty text and no max_tokens",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Directive names in action order."""
        return tuple(directive.name for directive in self.directives)

    def __len__(self) -> int:
        return len(self.directives)

    def __getitem__(self, action: int) -> Directive:
        return self.directives[action]

    def placed(self, place: Place | None) -> "Catalogue":
        """Return the catalogue with all texts at one place; None leaves them as they are."""
        if place is None:
            return self
        return Catalogue(tuple(replace(d, place=place) if d.text else d for d in self.directives))

    def to_rows(self) -> list[dict[str, Any]]:
        """Return plain rows, in the format of the YAML catalogue and the policy bundle."""
        return [
            {"name": d.name, "text": d.text}
            | ({} if d.max_tokens is None else {"max_tokens": d.max_tokens})
            | ({} if d.place == "system" else {"place": d.place})
            for d in self.directives
        ]

    @classmethod
    def from_rows(cls, rows: Any, source: Path | str) -> "Catalogue":
        """Build the catalogue from plain rows.

        Args:
            source: file that the rows come from, for error messages.

        Raises:
            DataError: a row or field is wrong; the message names the row and field.
        """
        if not isinstance(rows, list):
            raise DataError(source, "is not a list of directives", "give rows with name and text")
        directives = []
        for number, row in enumerate(rows, 1):
            named = isinstance(row, dict) and "name" in row
            if not named or set(row) - _FIELDS:
                raise DataError(
                    source,
                    f"directive {number} has fields {row!r}",
                    "give name, text and optionally max_tokens and place",
                )
            name, text = row["name"], row.get("text", "")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise DataError(
                    source, f"directive {number} name {name!r}", "use only letters, digits, _ . -"
                )
            if not isinstance(text, str):
                raise DataError(source, f"directive {number} text {text!r}", "give text")
            cap = row.get("max_tokens")
            if cap is not None and (not isinstance(cap, int) or cap < 1):
                raise DataError(source, f"directive {number} max_tokens {cap!r}", "give 1 or more")
            place = row.get("place", "system")
            if place not in get_args(Place):
                raise DataError(
                    source, f"directive {number} place {place!r}", "give system or user"
                )
            directives.append(Directive(name, text, cap, place))
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
    """Return the YAML catalogue at `path`, or the paper's three directives if `path` is None."""
    if path is None:
        return DEFAULT_CATALOGUE
    return Catalogue.from_rows(read_yaml(path, "give a YAML catalogue"), path)
