"""Generation directives and their catalogue. The index in the catalogue is the action."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.errors import DataError
from envs.yaml_file import read_yaml

Message = Mapping[str, Any]
# Names travel in HTTP headers and metric labels.
_NAME = re.compile(r"[\w.-]+", re.ASCII)
SYSTEM_ROLES = ("system", "developer")
# Names of the cap on generated tokens in a chat-completions body.
CHAT_CAPS = ("max_completion_tokens", "max_tokens")


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

    def messages(self, messages: Sequence[Message], part: str = "text") -> list[dict[str, Any]]:
        """The chat with this directive added; the caller's messages are not changed.

        It goes to the end of the system texts that the chat begins with, so that whatever
        a server has cached of them stays of use.

        Args:
            part: type of a text among a message's parts.
        """
        chat = [dict(message) for message in messages]
        if not self.text:
            return chat
        leading = 0
        while leading < len(chat) and chat[leading].get("role") in SYSTEM_ROLES:
            leading += 1
        if not leading:
            return [{"role": "system", "content": self.text}, *chat]
        last = chat[leading - 1]
        content = last.get("content")
        if isinstance(content, list):
            last["content"] = [*content, {"type": part, "text": self.text}]
        else:
            last["content"] = self.after(content)
        return chat

    def after(self, own: str | None) -> str:
        """The directive's text after the caller's own, if any."""
        return f"{own} {self.text}" if own else self.text

    def body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat-completions body with this directive added."""
        return self.capped({**body, "messages": self.messages(body["messages"])}, CHAT_CAPS)

    def capped(self, body: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
        """The body with its cap on generated tokens lowered to the directive's, if higher.

        Args:
            fields: the cap's names; the first that the caller gave counts, else the last.
        """
        if self.max_tokens is None:
            return body
        field = next((name for name in fields if body.get(name) is not None), fields[-1])
        asked = body.get(field)
        if asked is not None and int(asked) <= self.max_tokens:
            return body
        return {**body, field: self.max_tokens}


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
    return Catalogue.from_rows(read_yaml(path, "give a YAML catalogue"), path)
