"""A load's lanes: a request in flight on each, over a connection that is kept where it can be."""

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any


class Run:
    """What the lanes of a load share.

    Args:
        seconds: in which requests are sent.
        per_second: requests of all lanes; default as many as are answered.
        kept: no server may close a connection.

    Attributes:
        done: ends with the last lane, or with the first error.
    """

    def __init__(
        self, connections: int, seconds: float, per_second: float | None, kept: bool
    ) -> None:
        self.every = connections / per_second if per_second else 0.0
        self.kept = kept
        self.latencies: list[float] = []
        self.first: list[float] = []
        self._left = connections
        self.until = time.perf_counter() + seconds
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(self) -> None:
        """The run ends with its last lane."""
        self._left -= 1
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """End the run with its first error."""
        if not self.done.done():
            self.done.set_exception(error)


class _Connection(asyncio.Protocol):
    """A connection of a lane: finds where answers begin and end."""

    def __init__(self, lane: "Lane") -> None:
        self._lane = lane
        self._buffer = b""
        self._first: float | None = None
        self.asked = self.answered = 0

    @property
    def cut(self) -> bool:
        """Whether an answer has begun that has not ended."""
        return self.asked > self.answered and bool(self._buffer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The lane's request can be sent."""
        self._transport: Any = transport
        self._lane.opened(self)

    def send(self, request: bytes) -> None:
        """Send a request; the one before has been answered."""
        self._buffer, self._first = b"", None
        self.asked += 1
        self._transport.write(request)

    def close(self) -> None:
        """No further request is sent here."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Tell the lane of a whole answer."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        if self._first is None and len(self._buffer) > head + 4:
            self._first = time.perf_counter()
        fields = self._buffer[:head].lower()
        if not _whole(self._buffer, fields):
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self._lane.fail(self._buffer[:200].decode("latin-1"))
            return
        self.answered += 1
        self._lane.answered(self._first, _is_last(fields))

    def connection_lost(self, exc: Exception | None) -> None:
        """The lane decides what that means."""
        self._lane.lost(self)


class Lane:
    """One of the requests that are in flight: sent whenever the last is answered and it is due.

    A server may close a kept connection between two answers, also while the next request is on
    its way (RFC 9112, 9.3.1 and 9.6). That request is then sent once more, on a new connection:
    to say it twice does no harm to these servers. Its latency counts the opening.
    """

    def __init__(self, place: tuple[str, int], requests: Iterator[bytes], load: Run) -> None:
        self._place = place
        self._requests = requests
        self._run = load
        # Not all at the same moment.
        self._due = time.perf_counter() - load.every * random.random()
        self._connection: _Connection | None = None
        self._request = b""
        self._begun = 0.0

    def ask(self) -> None:
        """Send the next request."""
        self._request = next(self._requests)
        self._begun = time.perf_counter()
        if self._connection is None:
            self._open()
        else:
            self._connection.send(self._request)

    def opened(self, connection: _Connection) -> None:
        """Send what is to be sent."""
        self._connection = connection
        connection.send(self._request)

    def answered(self, first: float | None, closes: bool) -> None:
        """Note an answer, and send the next request when it is due.

        Args:
            first: when the first byte of its body came.
            closes: the server has said that it closes the connection.
        """
        now = time.perf_counter()
        self._run.latencies.append(now - self._begun)
        self._run.first.append((first or now) - self._begun)
        # One that is behind catches up.
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
        """Open another one if there is something to send, and nothing of its answer has come."""
        if connection is not self._connection:
            return
        self._connection = None
        if connection.cut:
            self.fail("the connection was closed in the middle of an answer")
        elif self._run.kept or not connection.answered:
            self.fail("the connection was closed")
        elif connection.asked > connection.answered:
            self._open()

    def fail(self, answer: str) -> None:
        """End the whole run."""
        self._run.fail(RuntimeError(f"not answered with 200: {answer}"))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> None:
        async def connect() -> None:
            loop = asyncio.get_running_loop()
            try:
                await loop.create_connection(lambda: _Connection(self), *self._place)
            except OSError as error:
                self._run.fail(error)

        # Named: the loop itself holds its tasks weakly.
        self._opening = asyncio.get_running_loop().create_task(connect())


def _whole(buffer: bytes, fields: bytes) -> bool:
    _, found, rest = fields.partition(b"content-length:")
    if found:
        return len(buffer) >= len(fields) + 4 + int(rest.split(b"\r\n")[0])
    return buffer.endswith(b"0\r\n\r\n")


def _is_last(fields: bytes) -> bool:
    """Whether the server closes the connection after this answer."""
    _, found, rest = fields.partition(b"\r\nconnection:")
    return bool(found) and b"close" in rest.split(b"\r\n")[0]
