"""A load of chat requests over kept connections: requests/s and latencies, one core."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from envs.arrays import Float64Array


@dataclass(frozen=True)
class Load:
    """What a run of `seconds` saw.

    Attributes:
        latencies, first: s, shape (requests,): until the answer's end, and its first byte of
            body.
    """

    seconds: float
    latencies: Float64Array
    first: Float64Array

    @property
    def per_second(self) -> float:
        """Requests answered."""
        return len(self.latencies) / self.seconds


class _Connection(asyncio.Protocol):
    """Sends a request whenever the one before has been answered and it is due."""

    def __init__(self, requests: Iterator[bytes], load: "_Run") -> None:
        self._requests = requests
        self._run = load
        # Not all at the same moment.
        self._due = time.perf_counter() - load.every * random.random()
        self._buffer = b""
        self._begun = 0.0
        self._first: float | None = None
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport: Any = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Note a whole answer, and send the next request."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        if self._first is None and len(self._buffer) > head + 4:
            self._first = time.perf_counter()
        if not _whole(self._buffer, head):
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self._run.fail(self._buffer[:200].decode("latin-1"))
            return
        now = time.perf_counter()
        self._run.latencies.append(now - self._begun)
        self._run.first.append((self._first or now) - self._begun)
        # One that is behind catches up.
        self._due += self._run.every
        if max(now, self._due) >= self._run.until:
            self._ended = True
            self._transport.close()
        elif self._due > now:
            asyncio.get_running_loop().call_later(self._due - now, self._send)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The run ends with its last connection."""
        if not self._ended:
            self._run.fail("the connection was closed")
        self._run.left -= 1
        if self._run.left == 0 and not self._run.done.done():
            self._run.done.set_result(None)

    def _send(self) -> None:
        self._buffer, self._first = b"", None
        self._begun = time.perf_counter()
        self._transport.write(next(self._requests))


class _Run:
    def __init__(self, connections: int, seconds: float, per_second: float | None) -> None:
        self.every = connections / per_second if per_second else 0.0
        self.latencies: list[float] = []
        self.first: list[float] = []
        self.left = connections
        self.until = time.perf_counter() + seconds
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, answer: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"not answered with 200: {answer}"))


def chats(url: str, model: str, *, stream: bool = False) -> Iterator[bytes]:
    """Requests without end, no two alike, as bytes on the wire."""
    host = urlsplit(url).netloc
    for number in itertools.count():
        chat = [{"role": "user", "content": f"What is {number} + 3, and then 5 more?"}]
        content: dict[str, Any] = {"model": model, "messages": chat, "max_tokens": 64}
        body = json.dumps(content | ({"stream": True} if stream else {})).encode()
        yield (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: "
            f"application/json\r\nAuthorization: Bearer sk-bench\r\nContent-Length: {len(body)}"
            "\r\n\r\n"
        ).encode() + body


def run(
    url: str,
    requests: Iterator[bytes],
    connections: int,
    seconds: float,
    per_second: float | None = None,
) -> Load:
    """Load `url` for some seconds.

    Args:
        per_second: requests to send; default as many as are answered.

    Raises:
        RuntimeError: an answer was not 200, or a connection was closed.
    """
    return asyncio.run(_run(url, requests, connections, seconds, per_second))


async def _run(
    url: str,
    requests: Iterator[bytes],
    connections: int,
    seconds: float,
    per_second: float | None,
) -> Load:
    host, _, port = urlsplit(url).netloc.partition(":")
    loop, load = asyncio.get_running_loop(), _Run(connections, seconds, per_second)
    begun = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(requests, load), host, int(port))
    await load.done
    spent = time.perf_counter() - begun
    return Load(spent, np.array(load.latencies), np.array(load.first))


def _whole(buffer: bytes, head: int) -> bool:
    lower = buffer[:head].lower()
    _, found, rest = lower.partition(b"content-length:")
    if found:
        return len(buffer) >= head + 4 + int(rest.split(b"\r\n")[0])
    return buffer.endswith(b"0\r\n\r\n")
