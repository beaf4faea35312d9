"""Relays requests to upstream servers and streams the unchanged answers back."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Any

import aiohttp
import orjson
from yarl import URL

from serving.http.asgi import Headers, Receive, Scope, Send, respond_error

# Headers that an intermediary must not forward (RFC 9110, section 7.6.1), and headers that
# belong to one connection.
HOP_HEADERS = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect"),
        b"proxy-connection",
    )
)
_ANSWER_HOP_HEADERS = HOP_HEADERS - {b"content-length"}
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
# Larger bodies are not parsed for their model; the default upstream receives them.
_MODEL_BYTES = 1 << 20
# Time after the request before the relay watches for the client's disconnect.
WATCH_DELAY_SECONDS = 0.05


class Relay:
    """ASGI application that relays to one upstream, or to one per model.

    Args:
        upstream: base URL of the default upstream.
        by_model: base URL for each model that another upstream serves.
        tls: for https upstreams; None verifies against the system's certificate authorities.
    """

    def __init__(
        self,
        upstream: str,
        by_model: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._upstream = upstream.rstrip("/")
        self._by_model = {model: url.rstrip("/") for model, url in (by_model or {}).items()}
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the HTTP client; needs a running event loop."""
        connector = aiohttp.TCPConnector(
            limit=0,
            # Close idle connections before the server does (uvicorn: after 5 s), so that no
            # request goes to a connection that the server is just closing.
            keepalive_timeout=3,
            ssl=self._tls if self._tls is not None else True,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            # Clients share this session, but must not share cookies.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
            skip_auto_headers=_AUTO_HEADERS,
        )

    async def close(self) -> None:
        """Close the connections to the upstreams."""
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one request."""
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body, more = event.get("body", b""), event.get("more_body", False)
        upstream = self._upstream_for(body, more)
        watcher = _DisconnectWatcher(receive)
        if more:
            data: Any = _streamed_body(body, receive, watcher.watch)
        else:
            data = body or None
            watcher.watch()
        answer_started = False
        try:
            async with await self._request(scope, upstream, data) as response:
                answer_started = True
                await _pass_on(response, send)
        except asyncio.CancelledError:
            # A disconnected client needs no answer. Closing the upstream connection has
            # stopped the upstream's work.
            if not watcher.disconnected:
                raise
            watcher.task.uncancel()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if answer_started:
                # The client may have part of the answer: break the connection, as the
                # upstream did.
                raise UpstreamBrokeError(type(error).__name__) from None
            message = f"upstream did not answer: {type(error).__name__}"
            await respond_error(send, 502, message, "upstream_error")
        finally:
            watcher.stop()

    def _upstream_for(self, body: bytes, more: bool) -> str:
        if not self._by_model or more or len(body) > _MODEL_BYTES:
            return self._upstream
        try:
            model = orjson.loads(body)["model"]
        except (ValueError, TypeError, KeyError, IndexError):
            return self._upstream
        name = model if isinstance(model, str) else ""
        return self._by_model.get(name, self._upstream)

    async def _request(self, scope: Scope, upstream: str, data: Any) -> aiohttp.ClientResponse:
        assert self._session is not None
        path = scope.get("raw_path") or scope["path"].encode()
        url = upstream + path.decode("ascii")
        if query := scope.get("query_string"):
            url += "?" + query.decode("ascii")
        headers = [
            (name.decode("latin-1"), _decoded(value))
            for name, value in scope["headers"]
            if name not in HOP_HEADERS
        ]
        if isinstance(data, AsyncIterator):
            length = next((v for n, v in scope["headers"] if n == b"content-length"), None)
            if length is not None:
                headers.append(("Content-Length", length.decode("ascii")))
        return await self._session.request(
            scope["method"],
            _url(url),
            data=data,
            headers=headers,
            allow_redirects=False,
        )


@lru_cache(maxsize=256)
def _url(url: str) -> URL:
    return URL(url, encoded=True)


class UpstreamBrokeError(Exception):
    """The upstream's answer ended early; raising this breaks the client's connection too."""


async def _pass_on(response: aiohttp.ClientResponse, send: Send) -> None:
    headers = _relayed_headers(response)
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    bytes_left = response.content_length
    async for piece in response.content.iter_any():
        if bytes_left is not None:
            bytes_left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": bytes_left != 0})
        if bytes_left == 0:
            return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _streamed_body(
    first: bytes, receive: Receive, on_end: Callable[[], None]
) -> AsyncIterator[bytes]:
    """Yield a long request body piece by piece, then call `on_end`."""
    yield first
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError("the client disconnected during its request body")
        more = event.get("more_body", False)
        yield event.get("body", b"")
    on_end()


class _DisconnectWatcher:
    """Cancels the task that created this object when the client disconnects.

    Attributes:
        task: the task to cancel.
        disconnected: whether the client disconnected.
    """

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.disconnected = False
        self._receive = receive
        self._watch_task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Start watching; call this once the request's body has been received."""
        # Delayed, because most answers of a fast server are complete before the task is needed.
        self._timer = asyncio.get_running_loop().call_later(WATCH_DELAY_SECONDS, self._begin)

    def stop(self) -> None:
        """Stop watching; no effect if `watch` was not called."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch_task is not None:
            self._watch_task.cancel()

    def _begin(self) -> None:
        self._watch_task = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.disconnected = True
        self.task.cancel()


def _relayed_headers(response: aiohttp.ClientResponse) -> Headers:
    # A 304 answer has no body: its Content-Length describes a body that is not sent.
    dropped = HOP_HEADERS if response.status == 304 else _ANSWER_HOP_HEADERS
    return [(n.lower(), v) for n, v in response.raw_headers if n.lower() not in dropped]


def _decoded(value: bytes) -> str:
    # aiohttp encodes headers as UTF-8, so UTF-8 values stay the same. Other values are taken
    # as Latin-1.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
