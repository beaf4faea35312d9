"""Watches an answer go by: when it is complete, what it used, what is added to it.

Nothing is held back but, where we asked upstream for usage that the client did not ask for,
the incomplete event at a piece's end; no client can read that before its rest has come.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

TAIL_BYTES = 4096
KEPT_BYTES = 1 << 20
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
# The last event that clients wait for; what follows is the connection's own end.
_ENDS = (b"data: [DONE]", b"event: response.completed", b"event: response.incomplete")
# Of a stream without usage: the first names the role, the last the reason for its end.
_EVENTS_WITHOUT_TOKEN = 2


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of an answer; `method` is "reported" by upstream or "counted" by events."""

    prompt_tokens: int | None
    completion_tokens: int | None
    method: str | None


class AnswerOutcome(Protocol):
    """What is recorded of an answer, whoever watched it."""

    status: int
    seconds_first: float | None

    @property
    def usage(self) -> Usage:
        """Tokens."""

    @property
    def text(self) -> str | None:
        """The answer's text, where it was kept."""


@dataclass(slots=True)
class ReportedAnswer:
    """An answer of which somebody else tells us."""

    started: float
    status: int = 0
    seconds_first: float | None = None
    usage: Usage = Usage(None, None, None)
    text: str | None = None

    def piece(self) -> None:
        """A piece has come."""
        if self.seconds_first is None:
            self.seconds_first = time.perf_counter() - self.started


class Answer:
    """One answer; `feed` it each piece and pass on what it returns.

    Args:
        started: `time.perf_counter()` at the request's arrival.
        estimate: JSON object to add to the final usage of a stream, from its usage.
        hide_usage: take out the usage chunk, for which the client did not ask.
        keep: keep the bytes, up to 1 MiB, for `text`.
    """

    def __init__(
        self,
        started: float,
        *,
        estimate: Callable[[Usage], bytes] | None = None,
        hide_usage: bool = False,
        keep: bool = False,
    ) -> None:
        self.status = 0
        self.complete = False
        self.seconds_first: float | None = None
        self._started = started
        self._estimate = estimate
        self._hide = hide_usage
        self._kept = bytearray() if keep else None
        self._stream = False
        self._events = 0
        self._left: int | None = None
        self._tail = b""
        self._held = b""

    def start(self, status: int, kind: bytes, length: bytes | None) -> None:
        """The answer begins, with its content's type and length."""
        self.status = status
        self._stream = kind.startswith(b"text/event-stream")
        self._left = int(length) if length and length.isdigit() else None

    def feed(self, piece: bytes, more: bool) -> bytes:
        """What to pass on of a piece; `complete` is then known."""
        if piece:
            if self.seconds_first is None:
                self.seconds_first = time.perf_counter() - self._started
            if self._kept is not None and len(self._kept) < KEPT_BYTES:
                self._kept += piece
            if self._left is not None:
                self._left -= len(piece)
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
            if self._stream:
                self._events += piece.count(b"data: {")
                piece = self._of_stream(piece)
        ended = self._stream and any(end in self._tail[-256:] or end in piece for end in _ENDS)
        self.complete = self.complete or not more or self._left == 0 or ended
        if not more and self._held:
            piece, self._held = piece + self._held, b""
        return piece

    @property
    def usage(self) -> Usage:
        """What the answer used, as far as has been seen."""
        prompt, completion = _PROMPT.findall(self._tail), _COMPLETION.findall(self._tail)
        if completion:
            return Usage(int(prompt[-1]) if prompt else None, int(completion[-1]), "reported")
        if self._stream and self._events:
            return Usage(None, max(0, self._events - _EVENTS_WITHOUT_TOKEN), "counted")
        return Usage(None, None, None)

    @property
    def text(self) -> str | None:
        """The answer's text, of its first choice; None if it was not kept or has none."""
        if not self._kept:
            return None
        try:
            if not self._stream:
                return _text_of(orjson.loads(self._kept))
            lines = bytes(self._kept).splitlines()
            events = [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
            return "".join(_delta_of(event) for event in events)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None

    def _of_stream(self, piece: bytes) -> bytes:
        if self._hide:
            events, end, self._held = (self._held + piece).rpartition(b"\n\n")
            kept = (e for e in events.split(b"\n\n") if not _NO_CHOICES.search(e)) if end else ()
            piece = b"".join(event + b"\n\n" for event in kept)
        elif self._estimate is not None and b'"usage"' in piece:
            found = list(_USAGE.finditer(piece))
            # Only where the usage lies whole in this piece: nothing waits for it.
            if found and _COMPLETION.search(piece, found[-1].end()):
                place = found[-1].end()
                return piece[:place] + self._estimate(self.usage) + b"," + piece[place:]
        return piece


def _text_of(answer: dict[str, Any]) -> str | None:
    if "choices" in answer:
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    else:
        parts = [p for item in answer["output"] for p in item.get("content") or ()]
        text = "".join(p.get("text", "") for p in parts)
    return text if isinstance(text, str) else None


def _delta_of(event: dict[str, Any]) -> str:
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    for choice in event.get("choices") or ():
        if choice.get("index", 0) == 0:
            return str((choice.get("delta") or {}).get("content") or choice.get("text") or "")
    return ""
