"""Relays requests to upstream servers and their answers back, byte for byte as they come."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Any

import aiohttp
import orjson
from yarl import URL

from serving.http.asgi import Headers, Receive, Scope, Send, respond_error

# RFC 9110, section 7.6.1, and what belongs to one hop only.
HOP_HEADERS = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect"),
        b"proxy-connection",
    )
)
_ANSWER_HOP = HOP_HEADERS - {b"content-length"}
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_MODEL_BYTES = 1 << 20
# Until it is looked whether the client is still there.
PATIENCE_SECONDS = 0.05


class Relay:
    """ASGI application over one upstream, or several by model.

    Args:
        upstream: base URL.
        by_model: base URLs of models that others serve.
        tls: for https upstreams; default verifies against the system's authorities.
    """

    def __init__(
        self,
        upstream: str,
        by_model: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._upstream = upstream.rstrip("/")
        self._by_model = {m: url.rstrip("/") for m, url in (by_model or {}).items()}
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the client."""
        connector = aiohttp.TCPConnector(
            limit=0,
            # Idle connections end before a server's own limit (uvicorn: 5 s), so that no
            # request is sent into one that is just being closed.
            keepalive_timeout=3,
            ssl=self._tls if self._tls is not None else True,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            # One client's cookies are not another's.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
            skip_auto_headers=_AUTO_HEADERS,
        )

    async def close(self) -> None:
        """End its connections."""
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one request."""
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body, more = event.get("body", b""), event.get("more_body", False)
        upstream = self._of(body, more)
        leaving = _DisconnectWatcher(receive)
        if more:
            data: Any = _rest(body, receive, leaving.watch)
        else:
            data = body or None
            leaving.watch()
        began = False
        try:
            async with await self._ask(scope, upstream, data) as response:
                began = True
                await _pass_on(response, send)
        except asyncio.CancelledError:
            # A client that left needs no answer; upstream's work has been stopped.
            if not leaving.gone:
                raise
            leaving.task.uncancel()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if began:
                # Bytes are out: break the connection, as upstream alone would have.
                raise UpstreamBrokeError(type(error).__name__) from None
            message = f"upstream did not answer: {type(error).__name__}"
            await respond_error(send, 502, message, "upstream_error")
        finally:
            leaving.stop()

    def _of(self, body: bytes, more: bool) -> str:
        if not self._by_model or more or len(body) > _MODEL_BYTES:
            return self._upstream
        try:
            model = orjson.loads(body)["model"]
        except (ValueError, TypeError, KeyError, IndexError):
            return self._upstream
        named = model if isinstance(model, str) else ""
        return self._by_model.get(named, self._upstream)

    async def _ask(self, scope: Scope, upstream: str, data: Any) -> aiohttp.ClientResponse:
        assert self._session is not None
        path = scope.get("raw_path") or scope["path"].encode()
        url = upstream + path.decode("ascii")
        if query := scope.get("query_string"):
            url += "?" + query.decode("ascii")
        headers = [
            (name.decode("latin-1"), _text(value))
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
    """Upstream's answer ended before it was complete; the client's connection is broken too."""


async def _pass_on(response: aiohttp.ClientResponse, send: Send) -> None:
    headers = _relayed(response)
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    left = response.content_length
    async for piece in response.content.iter_any():
        if left is not None:
            left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": left != 0})
        if left == 0:
            return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _rest(begun: bytes, receive: Receive, then: Callable[[], None]) -> AsyncIterator[bytes]:
    """A long body, as it comes."""
    yield begun
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError("the client left")
        more = event.get("more_body", False)
        yield event.get("body", b"")
    then()


class _DisconnectWatcher:
    """Cancels the task that made it when the client leaves."""

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.gone = False
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Begin, once the request's body has been received."""
        # Not at once: most answers of a fast server need no task beside them.
        self._later = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._begin)

    def stop(self) -> None:
        """End; harmless when not begun."""
        if self._later is not None:
            self._later.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _begin(self) -> None:
        self._watch = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.gone = True
        self.task.cancel()


def _relayed(response: aiohttp.ClientResponse) -> Headers:
    # The length of a 304 is that of a body which does not come.
    dropped = HOP_HEADERS if response.status == 304 else _ANSWER_HOP
    return [(n.lower(), v) for n, v in response.raw_headers if n.lower() not in dropped]


def _text(value: bytes) -> str:
    # The client library writes headers as UTF-8; what is not UTF-8 is kept readable.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
