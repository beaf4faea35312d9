"""Observes an answer on its way to the client: when it is complete and how many tokens it used.

Most answers pass unchanged; a copy is decoded and parsed. A stream is edited in two cases: the
hook adds its estimate to the final usage, or it hides the usage that only it asked for. An edited
stream passes event by event, because a client cannot use an incomplete event either, and without
a content coding.
"""

import time
from collections.abc import Callable

import orjson

from serving.apis.api import Api
from serving.apis.facts import AnswerFacts
from serving.apis.usage_edit import is_final, with_member, without_usage
from serving.hook.outcome import Usage
from serving.streams.coding import CodingError, Decoder, decoder_of
from serving.streams.event_stream import Event, EventStream
from serving.telemetry.log import log_internal_error

Headers = list[tuple[bytes, bytes]]

# An answer that is not streamed is parsed up to this size, bytes.
LONGEST_ANSWER = 8 << 20
# Fields that describe the bytes of an answer, and are wrong for an edited one.
_BYTES_FIELDS = frozenset(
    (b"content-length", b"content-md5", b"content-digest", b"repr-digest", b"etag")
)


class Answer:
    """One observed answer: `feed` it each piece and pass on the bytes that it returns.

    Args:
        api: of the request's route.
        started: `time.perf_counter()` at the request's arrival.
        estimate: returns, for the usage of a stream and the model that it names, a JSON member to
            insert into its final usage object. None inserts nothing.
        hide_usage: remove the usage chunk, because the client did not ask for it.
        keep: keep the answer's text.

    Attributes:
        status: HTTP status of the upstream; 0 before `start`.
        complete: whether the client has all that it waits for, with the last piece fed.
        seconds_first: s from the request's arrival to the first piece; None before that.
        facts: what the answer says so far.
        misread: whether reading or editing failed; the bytes then pass unchanged.
    """

    def __init__(
        self,
        api: Api,
        started: float,
        *,
        estimate: Callable[[Usage, str | None], bytes] | None = None,
        hide_usage: bool = False,
        keep: bool = False,
    ) -> None:
        self.status = 0
        self.complete = False
        self.seconds_first: float | None = None
        self.facts = AnswerFacts(texts=[] if keep else None)
        self.misread = False
        self._api = api
        self._started = started
        self._estimate = estimate
        self._hide_usage = hide_usage
        self._edits = False
        self._bytes_left: int | None = None
        # How the answer is read; all are None if it cannot be.
        self._decoder: Decoder | None = None
        # The bytes before the decoder's first output.
        self._undecoded: bytes | None = b""
        self._events: EventStream | None = None
        self._parts: list[bytes] | None = None
        self._parts_bytes = 0

    @property
    def may_be_edited(self) -> bool:
        """True if a stream would be edited, so that it should come without a content coding."""
        return self._hide_usage or self._estimate is not None

    @property
    def is_stream(self) -> bool:
        """True if the answer is an event stream that can be read."""
        return self._events is not None

    def start(self, status: int, headers: Headers) -> Headers:
        """Note the head of the answer and return the fields to pass on.

        Args:
            headers: names in lower case.
        """
        self.status = status
        fields = dict(headers)
        length = fields.get(b"content-length", b"")
        self._bytes_left = int(length) if length.isdigit() else None
        coding = fields.get(b"content-encoding", b"identity").strip().lower()
        if coding not in (b"", b"identity"):
            self._decoder = decoder_of(coding)
            if self._decoder is None:
                return headers
        if not fields.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            self._parts = []
            return headers
        self._events = EventStream()
        if any(n == b"cache-control" and b"no-transform" in v.lower() for n, v in headers):
            # The upstream forbids additions (RFC 9111, section 5.2.2.6). What only the hook asked
            # for is still removed.
            self._estimate = None
        self._edits = self.may_be_edited
        if not self._edits:
            return headers
        dropped = _BYTES_FIELDS if self._decoder is None else _BYTES_FIELDS | {b"content-encoding"}
        return [pair for pair in headers if pair[0] not in dropped]

    def feed(self, piece: bytes, more: bool) -> bytes:
        """Take one piece of the body, update `complete`, and return the bytes to pass on.

        Args:
            more: whether further pieces may follow.

        Raises:
            CodingError: an edited stream is damaged: its coding breaks off.
        """
        output = piece
        if piece:
            if self.seconds_first is None:
                self.seconds_first = time.perf_counter() - self._started
            if self._bytes_left is not None:
                self._bytes_left -= len(piece)
            output = self._read(piece)
        if not more and self._edits and self._events is not None:
            output += self._events.rest
            self._events = None
        if not more or self._bytes_left == 0 or self.facts.ended:
            self._finish()
        return output

    @property
    def usage(self) -> Usage:
        """Token counts, from the pieces fed so far."""
        facts = self.facts
        if facts.completion_tokens is not None:
            return Usage(facts.prompt_tokens, facts.completion_tokens, "reported")
        if facts.deltas:
            return Usage(facts.prompt_tokens, facts.deltas, "counted")
        return Usage(facts.prompt_tokens, None, None)

    @property
    def model(self) -> str | None:
        """Model that the answer names; None if it names none."""
        return self.facts.model

    @property
    def fingerprint(self) -> str | None:
        """The answer's `system_fingerprint`; None if it has none."""
        return self.facts.fingerprint

    @property
    def cut_off(self) -> bool:
        """True if the answer says that it reached a cap on its tokens."""
        return self.facts.cut_off

    @property
    def text(self) -> str | None:
        """Text of the answer's first choice; None if it was not kept or there is none."""
        return "".join(self.facts.texts or ()) or None

    def _read(self, piece: bytes) -> bytes:
        """Read a piece of the body and return the bytes to pass on."""
        text = piece if self._decoder is None else self._decoded(self._decoder, piece)
        if self._events is not None:
            return self._read_stream(self._events, piece, text)
        if self._parts is not None:
            self._parts.append(text)
            self._parts_bytes += len(text)
            if self._parts_bytes > LONGEST_ANSWER:
                self._parts = None
        # The rest of an endless event, in the coding that the head announced.
        return text if self._edits else piece

    def _decoded(self, decoder: Decoder, piece: bytes) -> bytes:
        """Return what a piece adds to the decoded body.

        A body that is in another coding from its first byte on is taken for plain, as it is where
        only the label is wrong.
        """
        if self._undecoded is not None:
            self._undecoded += piece
        try:
            text = decoder.feed(piece)
        except CodingError:
            if self._undecoded is not None:
                self._decoder = None
                return self._undecoded
            if self._edits:
                raise
            self._decoder = self._events = self._parts = None
            return piece
        if text:
            self._undecoded = None
        return text

    def _read_stream(self, stream: EventStream, piece: bytes, text: bytes) -> bytes:
        output = b"".join([self._passed_on(event) for event in stream.feed(text)])
        if stream.endless:
            # Nothing more is read.
            output, self._events = output + stream.rest, None
        return output if self._edits else piece

    def _passed_on(self, event: Event) -> bytes:
        """Return the bytes to pass on for an event; if reading it fails, its own bytes."""
        try:
            return self._read_event(event)
        except Exception as error:
            self.misread = True
            log_internal_error("an event of an answer could not be read", error)
            return event.raw

    def _read_event(self, event: Event) -> bytes:
        """Read an event and return the bytes to pass on."""
        try:
            data = None if event.data is None else orjson.loads(event.data)
        except ValueError:
            data = None
        self._api.read_event(event, data, self.facts)
        if self._edits and isinstance(data, dict):
            if self._hide_usage:
                return without_usage(event, data)
            if self._estimate is not None and is_final(data) and self.usage.method == "reported":
                return with_member(event, self._estimate(self.usage, self.model))
        return event.raw

    def _finish(self) -> None:
        if self._parts is not None:
            parts, self._parts = b"".join(self._parts), None
            try:
                answer = orjson.loads(parts)
            except ValueError:
                answer = None
            try:
                if isinstance(answer, dict):
                    self._api.read_answer(answer, self.facts)
            except Exception as error:
                self.misread = True
                log_internal_error("an answer could not be read", error)
        self.complete = True
