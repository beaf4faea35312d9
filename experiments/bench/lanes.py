"""Lanes of a load: each keeps one request in flight and reuses its connection if possible."""

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any


class Run:
    """State shared by all lanes of one load.

    Args:
        connections: number of lanes.
        seconds: time during which requests are sent, s.
        per_second: requests/s of all lanes together; None sends each request as soon as the
            previous one is answered.
        kept: True makes a closed connection an error.

    Attributes:
        every: s between two requests of one lane, 0 without a rate.
        kept: True if a closed connection is an error.
        latencies: s from the start of each request to the end of its answer.
        first: s from the start of each request to the first byte of the answer's body.
        until: `time.perf_counter()` value after which no request is sent.
        done: future that completes with the last lane, or fails with the first error.
    """

    def __init__(
        self, connections: int, seconds: float, per_second: float | None, kept: bool
    ) -> None:
        self.every = connections / per_second if per_second else 0.0
        self.kept = kept
        self.latencies: list[float] = []
        self.first: list[float] = []
        self._active_lanes = connections
        self.until = time.perf_counter() + seconds
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(self) -> None:
        """Note that a lane has ended; complete the run with the last one."""
        self._active_lanes -= 1
        if self._active_lanes == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Fail the run with `error`, unless it has already ended."""
        if not self.done.done():
            self.done.set_exception(error)


class _Connection(asyncio.Protocol):
    """A lane's connection: sends requests and detects the start and end of each answer."""

    def __init__(self, lane: "Lane") -> None:
        self._lane = lane
        self._buffer = b""
        self._first: float | None = None
        self.sent = self.answered = 0

    @property
    def cut(self) -> bool:
        """True if an answer has begun but not ended."""
        return self.sent > self.answered and bool(self._buffer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the lane that its request can be sent."""
        self._transport: Any = transport
        self._lane.opened(self)

    def send(self, request: bytes) -> None:
        """Send a request; the previous one must have been answered."""
        self._buffer, self._first = b"", None
        self.sent += 1
        self._transport.write(request)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Buffer the data; tell the lane once the answer is complete or is not a 200."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        if self._first is None and len(self._buffer) > head + 4:
            self._first = time.perf_counter()
        fields = self._buffer[:head].lower()
        if not _is_complete(self._buffer, fields):
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self._lane.fail(self._buffer[:200].decode("latin-1"))
            return
        self.answered += 1
        self._lane.answered(self._first, _announces_close(fields))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the lane, which decides whether this is an error."""
        self._lane.lost(self)


class Lane:
    """One sequence of requests: each is sent when the previous one is answered and it is due.

    A server may close a kept connection between two answers, even while the next request is on
    its way (RFC 9112, 9.3.1 and 9.6). The lane then sends that request once more, on a new
    connection; repeating a request does no harm to the servers measured here. The request's
    latency includes opening the connection.
    """

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes], load: Run) -> None:
        self._address = address
        self._requests = requests
        self._run = load
        # A random offset, so that the lanes do not all send at the same moment.
        self._due = time.perf_counter() - load.every * random.random()
        self._connection: _Connection | None = None
        self._request = b""
        self._started = 0.0

    def ask(self) -> None:
        """Send the next request, on a new connection if there is none."""
        self._request = next(self._requests)
        self._started = time.perf_counter()
        if self._connection is None:
            self._open()
        else:
            self._connection.send(self._request)

    def opened(self, connection: _Connection) -> None:
        """Send the waiting request on the new connection."""
        self._connection = connection
        connection.send(self._request)

    def answered(self, first: float | None, closes: bool) -> None:
        """Record an answer and send the next request when it is due.

        Args:
            first: `time.perf_counter()` at the first byte of the answer's body, None if the body
                is empty.
            closes: True if the server announced that it closes the connection.
        """
        now = time.perf_counter()
        self._run.latencies.append(now - self._started)
        self._run.first.append((first or now) - self._started)
        # The due time advances by the schedule, so a lane that is late catches up.
        self._due += self._run.every
        ended = max(now, self._due) >= self._run.until
        if closes and self._run.kept:
            self.fail("the connection was closed")
            return
        if closes or ended:
            self._drop()
        if ended:
            self._run.ended()
        elif self._due > now:
            asyncio.get_running_loop().call_later(self._due - now, self.ask)
        else:
            self.ask()

    def lost(self, connection: _Connection) -> None:
        """Reopen the connection for an unanswered request; fail the run if that is not allowed."""
        if connection is not self._connection:
            return
        self._connection = None
        if connection.cut:
            self.fail("the connection was closed in the middle of an answer")
        elif self._run.kept or not connection.answered:
            self.fail("the connection was closed")
        elif connection.sent > connection.answered:
            self._open()

    def fail(self, answer: str) -> None:
        """Fail the whole run, quoting the answer or the problem."""
        self._run.fail(RuntimeError(f"a request was not answered with 200: {answer}"))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> None:
        async def connect() -> None:
            loop = asyncio.get_running_loop()
            try:
                await loop.create_connection(lambda: _Connection(self), *self._address)
            except OSError as error:
                self._run.fail(error)

        # Kept in an attribute, because the event loop holds its tasks only weakly.
        self._opening = asyncio.get_running_loop().create_task(connect())


def _is_complete(buffer: bytes, fields: bytes) -> bool:
    """Return whether `buffer` holds the whole answer whose lower-case headers are `fields`."""
    _, name, rest = fields.partition(b"content-length:")
    if name:
        return len(buffer) >= len(fields) + 4 + int(rest.split(b"\r\n")[0])
    return buffer.endswith(b"0\r\n\r\n")


def _announces_close(fields: bytes) -> bool:
    """Return whether the server announces that it closes the connection after this answer."""
    _, name, rest = fields.partition(b"\r\nconnection:")
    return bool(name) and b"close" in rest.split(b"\r\n")[0]
