"""A load of chat requests over kept connections: requests/s and latencies, one core."""

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
    *,
    kept: bool = False,
) -> Load:
    """Load `url` for some seconds.

    Args:
        per_second: requests to send; default as many as are answered.
        kept: the server is to keep each connection; by default it may close one between two
            answers.

    Raises:
        RuntimeError: an answer was not 200 or not whole, a new connection was closed before its
            first answer, or any was and `kept` is set.
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
    begun = time.perf_counter()
    # Named, so that they last as long as the run.
    lanes = [Lane((host, int(port)), requests, load) for _ in range(connections)]
    for lane in lanes:
        lane.ask()
    await load.done
    spent = time.perf_counter() - begun
    return Load(spent, np.array(load.latencies), np.array(load.first))
