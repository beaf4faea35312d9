"""Tells by a conversation's later turn whether the answer before it was enough.

A request carries its conversation's earlier turns, so that one look at it suffices.
"""

from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from envs.requests.directive import Message
from envs.requests.projection import EncodedProjection, TextFeatures, WordProjection
from envs.requests.structure import read_chat
from envs.yaml_file import read_yaml

FILE = Path(__file__).with_name("follow_ups.yaml")
# "repeat": the same question again; "more": a wish for a longer answer; "other": anything else.
FollowUp = Literal["repeat", "more", "other"]
# Cosine of two questions' words from which on they count as the same.
SAME = 0.8
# A longer message is a new request, whatever phrases occur in it, characters.
_LONGEST_WISH = 200
_NO_BLANKS = ("zh", "ja", "ko")


def follow_up(messages: Sequence[Message], text: TextFeatures | None) -> FollowUp | None:
    """Return what the last message of a chat is about; None if it is the user's first one.

    Args:
        text: the policy's text features, whose words tell how alike two questions are.
    """
    questions = [message for message in messages if message.get("role") == "user"]
    if len(questions) < 2 or messages[-1] is not questions[-1]:
        return None
    if not any(message.get("role") == "assistant" for message in messages):
        return None
    last, before = (read_chat([question]) for question in (questions[-1], questions[-2]))
    if last.text == before.text or _likeness(last.words, before.words, text) >= SAME:
        return "repeat"
    return "more" if len(last.text) <= _LONGEST_WISH and asks_for_more(last.text) else "other"


def asks_for_more(text: str) -> bool:
    """Return whether a text contains a phrase of the rules."""
    lower = text.casefold()
    spaced = f" {' '.join(''.join(c if c.isalnum() else ' ' for c in lower).split())} "
    words, parts = _phrases()
    return any(phrase in spaced for phrase in words) or any(phrase in lower for phrase in parts)


@cache
def _phrases() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the phrases to be found as whole words, with blanks around, and as parts of a text."""
    rules = read_yaml(FILE, "restore it from the package")
    words, parts = [], []
    for language, phrases in rules.items():
        for phrase in phrases:
            if language in _NO_BLANKS:
                parts.append(phrase)
            else:
                plain = "".join(c if c.isalnum() else " " for c in phrase.casefold())
                words.append(f" {' '.join(plain.split())} ")
    return tuple(words), tuple(parts)


def _likeness(a: Collection[str], b: Collection[str], text: TextFeatures | None) -> float:
    """Return the cosine of two sets of words, each weighted as the policy weights it."""
    projection = text.words if isinstance(text, EncodedProjection) else text
    if isinstance(projection, WordProjection):
        return projection.likeness(a, b)
    shared, sizes = len(set(a) & set(b)), len(set(a)) * len(set(b))
    return float(shared / sizes**0.5) if sizes else 0.0
