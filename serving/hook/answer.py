"""Observes an answer on its way to the client: when it is complete and how many tokens it used.

Answers are passed on without delay. The one exception is a stream whose usage chunk only the
hook asked for: the incomplete event at the end of a piece waits for its rest. A client could
not parse that event earlier anyway.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

# End of an answer that is searched for its usage, bytes.
TAIL_BYTES = 4096
# Answers are kept for `Answer.text` up to this size, bytes.
MAX_KEPT_BYTES = 1 << 20
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
# The last events that clients wait for: an answer counts as complete before the connection ends.
_LAST_EVENTS = (b"data: [DONE]", b"event: response.completed", b"event: response.incomplete")
# In a stream without usage, the first event names the role and the last one the finish reason.
_EVENTS_WITHOUT_TOKEN = 2


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer.

    Attributes:
        prompt_tokens: tokens of the prompt; None if unknown.
        completion_tokens: tokens of the answer; None if unknown.
        method: "reported" by the upstream, or "counted" from the stream's events; None if
            `completion_tokens` is unknown.
    """

    prompt_tokens: int | None
    completion_tokens: int | None
    method: str | None


class AnswerOutcome(Protocol):
    """The facts about an answer that the ledger records, from any observer.

    Attributes:
        status: HTTP status of the upstream; 0 if it did not answer.
        seconds_first: s from the request's arrival to the answer's first piece; None if there
            was none.
    """

    status: int
    seconds_first: float | None

    @property
    def usage(self) -> Usage:
        """Token counts."""

    @property
    def text(self) -> str | None:
        """The answer's text; None if it was not kept."""


@dataclass(slots=True)
class ReportedAnswer:
    """An answer that the hook does not see itself: its caller fills in the fields.

    Attributes:
        started: `time.perf_counter()` at the request's arrival.
    """

    started: float
    status: int = 0
    seconds_first: float | None = None
    usage: Usage = Usage(None, None, None)
    text: str | None = None

    def piece(self) -> None:
        """Note the arrival of a piece, to time the first one."""
        if self.seconds_first is None:
            self.seconds_first = time.perf_counter() - self.started


class Answer:
    """One observed answer: `feed` it each piece and pass on the bytes that it returns.

    Args:
        started: `time.perf_counter()` at the request's arrival.
        estimate: returns, for the usage of a stream, a JSON member to insert into its final
            usage object. None inserts nothing.
        hide_usage: remove the usage chunk, because the client did not ask for it.
        keep: keep the bytes, up to 1 MiB, for `text`.

    Attributes:
        status: HTTP status of the upstream; 0 before `start`.
        complete: whether the client has all that it waits for, with the last piece fed.
        seconds_first: s from the request's arrival to the first piece; None before that.
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
        self._hide_usage = hide_usage
        self._kept = bytearray() if keep else None
        self._is_stream = False
        self._events = 0
        self._bytes_left: int | None = None
        self._tail = b""
        self._incomplete_event = b""

    def start(self, status: int, kind: bytes, length: bytes | None) -> None:
        """Note the head of the answer.

        Args:
            status: HTTP status.
            kind: Content-Type.
            length: Content-Length; None if absent.
        """
        self.status = status
        self._is_stream = kind.startswith(b"text/event-stream")
        self._bytes_left = int(length) if length and length.isdigit() else None

    def feed(self, piece: bytes, more: bool) -> bytes:
        """Take one piece of the body, update `complete`, and return the bytes to pass on.

        Args:
            more: whether further pieces may follow.
        """
        if piece:
            if self.seconds_first is None:
                self.seconds_first = time.perf_counter() - self._started
            if self._kept is not None and len(self._kept) < MAX_KEPT_BYTES:
                self._kept += piece
            if self._bytes_left is not None:
                self._bytes_left -= len(piece)
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
            if self._is_stream:
                self._events += piece.count(b"data: {")
                piece = self._edit_stream(piece)
        ended = self._is_stream and any(
            event in self._tail[-256:] or event in piece for event in _LAST_EVENTS
        )
        self.complete = self.complete or not more or self._bytes_left == 0 or ended
        if not more and self._incomplete_event:
            piece, self._incomplete_event = piece + self._incomplete_event, b""
        return piece

    @property
    def usage(self) -> Usage:
        """Token counts, from the pieces fed so far."""
        prompt, completion = _PROMPT.findall(self._tail), _COMPLETION.findall(self._tail)
        if completion:
            return Usage(int(prompt[-1]) if prompt else None, int(completion[-1]), "reported")
        if self._is_stream and self._events:
            return Usage(None, max(0, self._events - _EVENTS_WITHOUT_TOKEN), "counted")
        return Usage(None, None, None)

    @property
    def text(self) -> str | None:
        """Text of the answer's first choice; None if it was not kept or cannot be parsed."""
        if not self._kept:
            return None
        try:
            if not self._is_stream:
                return _text_of(orjson.loads(self._kept))
            lines = bytes(self._kept).splitlines()
            events = [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
            return "".join(_delta_of(event) for event in events)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None

    def _edit_stream(self, piece: bytes) -> bytes:
        """Remove the usage chunk from a piece of a stream, or add the estimate to it."""
        if self._hide_usage:
            events, end, self._incomplete_event = (self._incomplete_event + piece).rpartition(
                b"\n\n"
            )
            shown = (e for e in events.split(b"\n\n") if not _NO_CHOICES.search(e)) if end else ()
            piece = b"".join(event + b"\n\n" for event in shown)
        elif self._estimate is not None and b'"usage"' in piece:
            usages = list(_USAGE.finditer(piece))
            # A usage object that is split over two pieces gets no estimate: the first part
            # would have to wait for the second.
            if usages and _COMPLETION.search(piece, usages[-1].end()):
                position = usages[-1].end()
                return piece[:position] + self._estimate(self.usage) + b"," + piece[position:]
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
    """Return the text that a stream's event adds to the first choice."""
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    for choice in event.get("choices") or ():
        if choice.get("index", 0) == 0:
            return str((choice.get("delta") or {}).get("content") or choice.get("text") or "")
    return ""
