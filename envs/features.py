"""What the policy sees: the one definition of the observation.

The same code observes in training and in serving, from the chat's text alone, so
that nothing the policy relies on is missing when a request arrives. NumPy only.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.directive import Message

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Feature:
    """One component of the observation."""

    name: str
    unit: str
    low: float
    high: float
    meaning: str


CONTENT_BUCKETS = 32

STRUCTURE = (
    Feature("log_tokens", "ln(1+tokens)", 0, 16, "prompt tokens, estimated at 4 characters each"),
    Feature("log_words", "ln(1+words)", 0, 16, "words"),
    Feature("log_sentences", "ln(1+n)", 0, 12, "ends of sentences and lines"),
    Feature("numbers", "count", 0, 32, "numbers written in digits"),
    Feature("options", "count", 0, 16, "options marked by a letter, as (A) or A)"),
    Feature("questions", "count", 0, 8, "question marks"),
    Feature("quantity", "0/1", 0, 1, "asks how many or how much"),
    Feature("explain", "0/1", 0, 1, "asks why or how, or for an explanation or steps"),
    Feature("write", "0/1", 0, 1, "asks to write, list, summarise or translate"),
    Feature("code", "0/1", 0, 1, "contains code"),
    Feature("turns", "count", 0, 32, "messages of the chat"),
    Feature("system", "0/1", 0, 1, "the caller sent a system text"),
)
CONTENT = tuple(
    Feature(f"content_{i}", "share", -1, 1, "signed hash of the words, scaled to length 1")
    for i in range(CONTENT_BUCKETS)
)
CONTEXT = (
    Feature("in_flight", "requests", 0, 1024, "requests at the server when this one is sent"),
    Feature("carbon_intensity", "gCO2e/kWh", 0, 2000, "the grid's intensity now"),
    Feature("recent_place", "ratio", 0, 1, "its place in the trailing 24 hours' range"),
    Feature("hour_sin", "sin", -1, 1, "hour of day (UTC), as an angle"),
    Feature("hour_cos", "cos", -1, 1, "hour of day (UTC), as an angle"),
)
FEATURES = STRUCTURE + CONTENT + CONTEXT

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_SENTENCE = re.compile(r"[.!?\n]+(?:\s|$)")
_OPTION = re.compile(r"\(?\b[A-H]\)")
_QUANTITY = re.compile(r"\bhow (?:many|much)\b", re.IGNORECASE)
_EXPLAIN = re.compile(r"\b(?:why|explain|step by step|how (?:do|does|did|can|to))\b", re.IGNORECASE)
_WRITE = re.compile(r"\b(?:write|list|summari[sz]e|translate|compose|draft)\b", re.IGNORECASE)
_CODE = re.compile(r"```|\bdef |\breturn\b|[{};]\s*\n")


class Featurizer:
    """Turns chats and context into observations of float32, shape (n_features,).

    Args:
        tasks: the task tags that the policy knows; any other tag, or none, leaves
            all their components 0.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        tags = tuple(Feature(f"task={t}", "0/1", 0, 1, "the request's task tag") for t in tasks)
        self.features = STRUCTURE + CONTENT + tags + CONTEXT
        self._index = {task: i for i, task in enumerate(self.tasks)}
        self.low = np.array([f.low for f in self.features], dtype=np.float32)
        self.high = np.array([f.high for f in self.features], dtype=np.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """Component names in order."""
        return tuple(feature.name for feature in self.features)

    def request(self, messages: Sequence[Message], task: str | None) -> Array:
        """The request's part, shape (n_features - len(CONTEXT),).

        Raises:
            ValueError: a message is not a mapping with text or parts.
        """
        text, system = _texts(messages)
        words = _WORD.findall(text.lower())
        structure = [
            np.log1p(len(text) / 4),
            np.log1p(len(words)),
            np.log1p(len(_SENTENCE.findall(text))),
            len(_NUMBER.findall(text)),
            len(_OPTION.findall(text)),
            text.count("?"),
            bool(_QUANTITY.search(text)),
            bool(_EXPLAIN.search(text)),
            bool(_WRITE.search(text)),
            bool(_CODE.search(text)),
            len(messages),
            system,
        ]
        tags = np.zeros(len(self.tasks), dtype=np.float32)
        if task in self._index:
            tags[self._index[task]] = 1.0
        part = np.concatenate([np.array(structure, dtype=np.float32), _content(words), tags])
        bounds = slice(0, len(part))
        clipped: Array = np.clip(part, self.low[bounds], self.high[bounds])
        return clipped

    def context(
        self,
        in_flight: NDArray[Any],
        intensity_g_per_kwh: NDArray[Any],
        recent_place: NDArray[Any],
        times: NDArray[Any],
    ) -> Array:
        """The moment's part, shape (n, len(CONTEXT)); `times` are Unix seconds."""
        angle = 2 * np.pi * (np.asarray(times) % 86400) / 86400
        columns = [in_flight, intensity_g_per_kwh, recent_place, np.sin(angle), np.cos(angle)]
        part = np.stack([np.asarray(c, dtype=np.float32) for c in columns], axis=-1)
        return np.clip(part, self.low[-len(CONTEXT) :], self.high[-len(CONTEXT) :])


def _texts(messages: Sequence[Message]) -> tuple[str, bool]:
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


def _content(words: list[str]) -> Array:
    buckets = np.zeros(CONTENT_BUCKETS, dtype=np.float32)
    for word in words:
        code = zlib.crc32(word.encode())
        buckets[code % CONTENT_BUCKETS] += 1.0 if code & 0x10000 else -1.0
    norm = float(np.linalg.norm(buckets))
    scaled: Array = buckets / norm if norm > 0 else buckets
    return scaled
