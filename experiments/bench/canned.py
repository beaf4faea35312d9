"""Reference servers for the gateway benchmark: a canned upstream and a bare hop.

`python -m experiments.bench.canned PORT` runs the upstream, which answers at once with fixed bytes.
`uvicorn experiments.bench.canned:hop` runs the hop, which relays to the URL in the environment
variable SPROUT_BENCH_UPSTREAM.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import aiohttp

from experiments.processes import HOST, ChildProcess, free_port, loopback, start_process

UPSTREAM_VARIABLE = "SPROUT_BENCH_UPSTREAM"
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"made","choices":'
    b'[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Forty-two, '
    b'as far as anybody knows."}}],"usage":{"prompt_tokens":13,"completion_tokens":8,'
    b'"total_tokens":21}}'
)
_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"made",'
    b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"made",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":13,'
    b'"completion_tokens":8,"total_tokens":21}}\n\ndata: [DONE]\n\n'
)
# Content events of a streamed answer.
EVENTS = 8


class Canned(asyncio.Protocol):
    """Server protocol that answers each request with the same bytes, streamed if asked to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start a client's connection with an empty buffer."""
        self._transport: Any = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that has arrived completely."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            _, _, rest = head.partition(b"content-length:")
            length = end + 4 + int(rest.split(b"\r\n")[0] or b"0")
            if len(self._buffer) < length:
                return
            body, self._buffer = self._buffer[end + 4 : length], self._buffer[length:]
            if b'"stream":true' in body or b'"stream": true' in body:
                self._transport.write(_STREAM + _chunk(_EVENT))
                for _ in range(EVENTS - 1):
                    self._transport.write(_chunk(_EVENT))
                self._transport.write(_chunk(_LAST) + b"0\r\n\r\n")
            else:
                self._transport.write(_WHOLE % (len(ANSWER), ANSWER))


def _chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of HTTP/1.1 chunked coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


# The one client session of the hop, while its application runs.
_session: list[aiohttp.ClientSession] = []


async def hop(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Minimal ASGI application that relays each request with aiohttp and does nothing else."""
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                connector = aiohttp.TCPConnector(limit=0)
                _session.append(aiohttp.ClientSession(connector=connector, auto_decompress=False))
                await send({"type": "lifespan.startup.complete"})
            else:
                await _session.pop().close()
                await send({"type": "lifespan.shutdown.complete"})
                return
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event.get("body", b""), event.get("more_body", False)
    url = os.environ[UPSTREAM_VARIABLE] + scope["path"]
    headers = {"content-type": "application/json"}
    async with _session[0].request(scope["method"], url, data=body, headers=headers) as answer:
        response_headers = [(b"content-type", answer.content_type.encode())]
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": response_headers}
        )
        async for piece in answer.content.iter_any():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def canned() -> Iterator[ChildProcess]:
    """Run the canned upstream as a process while the context lasts."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "experiments.bench.canned", str(port)]
    with start_process(
        "the canned upstream", command, loopback(port, "/"), start_seconds=30
    ) as upstream:
        yield upstream


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Canned, HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
