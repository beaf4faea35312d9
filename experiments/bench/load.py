"""Chat requests over kept connections, sent from one core: requests/s and latencies."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from envs.arrays import Float64Array
from experiments.bench.lanes import Lane, Run


@dataclass(frozen=True)
class Load:
    """Results of one run.

    Attributes:
        seconds: length of the run, s.
        latencies: s from each request to the end of its answer, shape (requests,).
        first: s from each request to the first byte of the answer's body, shape (requests,).
    """

    seconds: float
    latencies: Float64Array
    first: Float64Array

    @property
    def per_second(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds


def chats(url: str, model: str, *, stream: bool = False) -> Iterator[bytes]:
    """Yield distinct chat requests without end, as HTTP/1.1 bytes."""
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
    *,
    kept: bool = False,
) -> Load:
    """Send requests to `url` for `seconds` and wait for the last answers.

    Args:
        requests: HTTP requests as bytes, at least as many as are sent.
        connections: requests in flight.
        per_second: requests/s to send; None sends each request as soon as the previous one on
            its connection is answered.
        kept: True if the server must keep every connection open; by default it may close one
            between two answers.

    Raises:
        RuntimeError: an answer was not a 200 or was incomplete; a new connection was closed
            before its first answer; or any connection was closed and `kept` is set.
        OSError: a connection could not be opened.
    """
    return asyncio.run(_run(url, requests, connections, seconds, per_second, kept))


async def _run(
    url: str,
    requests: Iterator[bytes],
    connections: int,
    seconds: float,
    per_second: float | None,
    kept: bool,
) -> Load:
    host, _, port = urlsplit(url).netloc.partition(":")
    load = Run(connections, seconds, per_second, kept)
    started = time.perf_counter()
    # Kept in a list, so that the lanes live as long as the run.
    lanes = [Lane((host, int(port)), requests, load) for _ in range(connections)]
    for lane in lanes:
        lane.ask()
    await load.done
    elapsed = time.perf_counter() - started
    return Load(elapsed, np.array(load.latencies), np.array(load.first))
