"""Structural features of a chat: lengths, numbers, kinds of question. NumPy only.

The chat is split into words only once, here. The structural and the learned features
(`envs.requests.projection`) share these words, because an observation may only take
microseconds.
"""

import math
import re
import string
from collections.abc import Collection, KeysView, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from envs.requests.directive import SYSTEM_ROLES, Message

# Of a longer text only the beginning and the end are read: the question usually stands there.
HEAD_CHARACTERS = 3000
TAIL_CHARACTERS = 1000


@dataclass(frozen=True)
class Feature:
    """One component of the observation, with its unit, bounds and meaning."""

    name: str
    unit: str
    low: float
    high: float
    meaning: str


STRUCTURE = (
    Feature("log_tokens", "ln(1+tokens)", 0, 16, "prompt tokens, estimated at 4 characters each"),
    Feature("log_words", "ln(1+words)", 0, 16, "words and numbers in the part that is read"),
    Feature("log_sentences", "ln(1+n)", 0, 12, "full stops, exclamation marks and lines"),
    Feature("numbers", "count", 0, 32, "numbers written in digits"),
    Feature("options", "count", 0, 16, "options marked by a letter, as (A) or A)"),
    Feature("questions", "count", 0, 8, "question marks"),
    Feature("quantity", "0/1", 0, 1, "asks how many or how much"),
    Feature("explain", "0/1", 0, 1, "asks why or how, or for an explanation or steps"),
    Feature("write", "0/1", 0, 1, "asks to write, list, summarise or translate"),
    Feature("format", "0/1", 0, 1, "asks for JSON, a table, or another fixed format"),
    Feature("own_length", "0/1", 0, 1, "states the length of its own answer: never steered"),
    Feature("code", "0/1", 0, 1, "contains code"),
    Feature("turns", "count", 0, 32, "messages of the chat"),
    Feature("system", "0/1", 0, 1, "the caller sent a system text"),
)

# Word separators. `str.translate` is several times faster here than a regular expression.
_ENDS = str.maketrans(dict.fromkeys(string.punctuation + "“”‘’—–…«»¿¡。，、？！：", " "))
_OPTION = re.compile(r"[A-H]\)")
_EXPLAIN = frozenset(("why", "explain", "describe", "prove", "reason", "steps", "step"))
_WRITE = frozenset(
    ("write", "list", "summarize", "summarise", "translate", "compose", "draft", "generate")
)
_FORMAT = frozenset(("json", "yaml", "xml", "csv", "table", "bullet", "bullets", "markdown"))


OWN_LENGTH = [feature.name for feature in STRUCTURE].index("own_length")
_LENGTH_WORDS = frozenset(
    (
        *("word", "words", "sentence", "sentences", "paragraph", "paragraphs", "characters"),
        *("brief", "briefly", "concise", "concisely", "succinctly", "short", "detail"),
        *("detailed", "thorough"),
    )
)
_COUNT = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|a few|several|a single)"
_UNIT = r"(?:words?|sentences?|paragraphs?|characters?)"
_OWN_LENGTH = re.compile(
    rf"\b(?:in|within|under|using|most|least|than|to|exactly|about|only|maximum|max)"
    rf" {_COUNT}[ -](?:\w+ )?{_UNIT}\b"
    rf"|\b{_COUNT}[ -]{_UNIT} (?:or (?:less|fewer|more)|max|answer|summary|story|essay)"
    r"|\b(?:answer|reply|respond|explain|describe|summari[sz]e|discuss) (?:\w+ )?"
    r"(?:briefly|concisely|succinctly|in (?:brief|short|detail))\b"
    r"|(?:^|[.!?,;:\n] ?|please )(?:be|keep it) (?:very )?"
    r"(?:brief|concise|short|detailed|thorough)\b"
    r"|\b(?:detailed|brief|concise|thorough|short) (?:answer|response|explanation|summary)\b"
)


class Reading(NamedTuple):
    """The text, words and structure of a chat.

    Attributes:
        text: the part of the messages that was read, without system messages.
        words: the distinct words and numbers of `text`, in lower case.
        structure: one value per feature of STRUCTURE, not yet clipped to the feature's bounds.
    """

    text: str
    words: Collection[str]
    structure: Sequence[float]


def read_chat(messages: Sequence[Message]) -> Reading:
    """Return the text, words and structure of a chat.

    Raises:
        ValueError: a message's content is neither text nor a list of parts.
    """
    full_text, system = _texts(messages)
    text = full_text
    if len(full_text) > HEAD_CHARACTERS + TAIL_CHARACTERS:
        text = f"{full_text[:HEAD_CHARACTERS]}\n{full_text[-TAIL_CHARACTERS:]}"
    lower = text.lower()
    words = lower.translate(_ENDS).split()
    # In the order of the text: the order of a set differs between processes.
    distinct = dict.fromkeys(words).keys()
    structure = [
        math.log1p(len(full_text) / 4),
        math.log1p(len(words)),
        math.log1p(text.count(".") + text.count("!") + text.count("\n")),
        sum(map(str.isdecimal, words)),
        len(_OPTION.findall(text)) if ")" in text else 0,
        text.count("?"),
        "how many" in lower or "how much" in lower,
        not distinct.isdisjoint(_EXPLAIN) or ("how" in distinct and _asks_how(lower)),
        not distinct.isdisjoint(_WRITE),
        not distinct.isdisjoint(_FORMAT),
        _own_length(distinct, lower) or bool(system and _own_length(_words(system).keys(), system)),
        _has_code(text),
        len(messages),
        bool(system),
    ]
    return Reading(text, distinct, structure)


def _words(lower: str) -> dict[str, None]:
    return dict.fromkeys(lower.translate(_ENDS).split())


def _own_length(words: KeysView[str], lower: str) -> bool:
    # Check for the pattern's words first: the pattern takes as long as all other features.
    return not words.isdisjoint(_LENGTH_WORDS) and bool(_OWN_LENGTH.search(lower))


def _asks_how(lower: str) -> bool:
    return "how do" in lower or "how can" in lower or "how to" in lower or "how did" in lower


def _has_code(text: str) -> bool:
    return (
        "```" in text
        or "def " in text
        or "return " in text
        or ";\n" in text
        or "{\n" in text
        or "}\n" in text
    )


def _texts(messages: Sequence[Message]) -> tuple[str, str]:
    """Return the text of all other messages, and the system messages in lower case."""
    texts: list[str] = []
    systems: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            content = " ".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
        if content is None:
            continue
        if not isinstance(content, str):
            raise ValueError("a message's content is neither text nor a list of parts")
        is_system = message.get("role") in SYSTEM_ROLES
        (systems if is_system else texts).append(content)
    return "\n".join(texts), "\n".join(systems)[:HEAD_CHARACTERS].lower()
