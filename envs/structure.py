"""What can be read off a chat's form: lengths, numbers, kinds of question. NumPy only.

Words are read once, here, for the structure and for whatever is learned on top
(`envs.projection`): the whole observation has to cost microseconds.
"""

import re
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.directive import Message

Array = NDArray[np.float32]

# Of a longer text only the beginning and the end are read: what is asked stands there.
HEAD_CHARACTERS = 3000
TAIL_CHARACTERS = 1000


@dataclass(frozen=True)
class Feature:
    """One component of the observation."""

    name: str
    unit: str
    low: float
    high: float
    meaning: str


STRUCTURE = (
    Feature("log_tokens", "ln(1+tokens)", 0, 16, "prompt tokens, estimated at 4 characters each"),
    Feature("log_words", "ln(1+words)", 0, 16, "words and numbers of what is read"),
    Feature("log_sentences", "ln(1+n)", 0, 12, "full stops, exclamation marks and lines"),
    Feature("numbers", "count", 0, 32, "numbers written in digits"),
    Feature("options", "count", 0, 16, "options marked by a letter, as (A) or A)"),
    Feature("questions", "count", 0, 8, "question marks"),
    Feature("quantity", "0/1", 0, 1, "asks how many or how much"),
    Feature("explain", "0/1", 0, 1, "asks why or how, or for an explanation or steps"),
    Feature("write", "0/1", 0, 1, "asks to write, list, summarise or translate"),
    Feature("format", "0/1", 0, 1, "asks for JSON, a table, or another fixed format"),
    Feature("code", "0/1", 0, 1, "contains code"),
    Feature("turns", "count", 0, 32, "messages of the chat"),
    Feature("system", "0/1", 0, 1, "the caller sent a system text"),
)

# Words end at these. A translation is several times faster than a regular expression.
_ENDS = str.maketrans(dict.fromkeys(string.punctuation + "“”‘’—–…«»¿¡。，、？！：", " "))
_OPTION = re.compile(r"[A-H]\)")
_EXPLAIN = frozenset(("why", "explain", "describe", "prove", "reason", "steps", "step"))
_WRITE = frozenset(
    ("write", "list", "summarize", "summarise", "translate", "compose", "draft", "generate")
)
_FORMAT = frozenset(("json", "yaml", "xml", "csv", "table", "bullet", "bullets", "markdown"))


@dataclass(frozen=True)
class Reading:
    """A chat, read once.

    Attributes:
        text: what was read of the messages that are not system texts.
        words: its different words and numbers, in lower case.
        structure: shape (len(STRUCTURE),), not yet cut to the features' bounds.
    """

    text: str
    words: Collection[str]
    structure: list[float]


def read(messages: Sequence[Message]) -> Reading:
    """Read a chat.

    Raises:
        ValueError: a message is not a mapping with text or parts.
    """
    whole, system = _text(messages)
    text = whole
    if len(whole) > HEAD_CHARACTERS + TAIL_CHARACTERS:
        text = f"{whole[:HEAD_CHARACTERS]}\n{whole[-TAIL_CHARACTERS:]}"
    lower = text.lower()
    words = lower.translate(_ENDS).split()
    # In the order of the text: a set's differs from process to process.
    different = dict.fromkeys(words).keys()
    structure = [
        np.log1p(len(whole) / 4),
        np.log1p(len(words)),
        np.log1p(text.count(".") + text.count("!") + text.count("\n")),
        sum(map(str.isdecimal, words)),
        len(_OPTION.findall(text)),
        text.count("?"),
        "how many" in lower or "how much" in lower,
        not different.isdisjoint(_EXPLAIN) or ("how" in different and _asks_how(lower)),
        not different.isdisjoint(_WRITE),
        not different.isdisjoint(_FORMAT),
        _has_code(text),
        len(messages),
        system,
    ]
    return Reading(text, different, structure)


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


def _text(messages: Sequence[Message]) -> tuple[str, bool]:
    texts, system = [], False
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            content = " ".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
        if message.get("role") in ("system", "developer"):
            system = True
        elif content is not None:
            if not isinstance(content, str):
                raise ValueError("a message's content is neither text nor parts")
            texts.append(content)
    return "\n".join(texts), system
