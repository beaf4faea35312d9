"""Relays requests to upstream servers and streams the unchanged answers back."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.payload import BytesPayload
from yarl import URL

from serving.http.asgi import (
    BODY_SECONDS,
    HEAD_BYTES,
    BodyTooLongError,
    ClientLeftError,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    respond,
    respond_error,
)
from serving.http.disconnect import DisconnectWatcher
from serving.http.forwarding import (
    forwarded_request,
    forwarded_response,
    hops_left,
    passed_through,
    with_hops,
)
from serving.http.models import list_models, reason_of
from serving.http.routing import UnreadableError, Upstreams
from serving.telemetry.log import log

_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
# Methods whose Max-Forwards counts (RFC 9110, section 7.6.2).
_COUNTED_METHODS = ("TRACE", "OPTIONS")
# Longer bodies are searched for their model in a thread, bytes.
_LONG_BODY = 1 << 20


class Relay:
    """ASGI application that relays to one upstream, or to one per model.

    Args:
        upstreams: base URLs.
        tls: for https upstreams; None verifies against the system's certificate authorities.
        longest_routed: with several upstreams, the size up to which a body is read to find its
            model, bytes; a longer one is refused with 413.
        name: pseudonym of this gateway in the field Via, which no other gateway has.

    Attributes:
        upstreams: base URLs.
    """

    def __init__(
        self,
        upstreams: Upstreams | str,
        tls: ssl.SSLContext | None = None,
        longest_routed: int = 64 << 20,
        name: str = "sprout",
    ) -> None:
        self.upstreams = Upstreams(upstreams) if isinstance(upstreams, str) else upstreams
        self._tls = tls
        self._longest_routed = longest_routed
        self._name = name
        self._session: aiohttp.ClientSession | None = None
        # Upstreams that did not answer the last request.
        self._away: set[str] = set()

    async def open(self) -> None:
        """Open the HTTP client, if it is not open; needs a running event loop."""
        if self._session is not None:
            return
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
            max_line_size=HEAD_BYTES,
            max_field_size=HEAD_BYTES,
            max_headers=HEAD_BYTES // len("a:\r\n"),
        )
        # A request whose connection broke may have been served (RFC 9110, section 9.2.2). There is
        # no public switch; a test fails if this one is gone.
        self._session._retry_connection = False

    async def close(self) -> None:
        """Close the connections to the upstreams."""
        if self._session is not None:
            await self._session.close()

    async def models(self, upstream: str) -> tuple[list[str] | None, str | None]:
        """Ask an upstream for its models; see `serving.http.models.list_models`."""
        assert self._session is not None
        return await list_models(self._session, upstream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one request."""
        if passed_through(scope["headers"], self._name):
            message = "the request came back to this gateway: --upstream leads to itself"
            await respond_error(send, 508, message, "loop_detected")
            return
        hops = hops_left(scope["headers"]) if scope["method"] in _COUNTED_METHODS else None
        if hops == 0 or scope["path"] == "*":
            # The request is for this server itself.
            await respond(send, 200, b"", headers=[(b"allow", b"GET, POST, OPTIONS")])
            return
        if hops is not None:
            scope = {**scope, "headers": with_hops(scope["headers"], hops - 1)}
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body, more = event.get("body", b""), event.get("more_body", False)
        if more and self.upstreams.need_model:
            body = await self._whole_body(scope, body, receive, send)
            if body is None:
                return
            more = False
        try:
            upstream = await self._choose(scope, body)
        except UnreadableError as error:
            await respond_error(send, 400, str(error), "invalid_request_error")
            return
        watcher = DisconnectWatcher(receive)
        if more:
            data: Any = _streamed_body(body, receive, watcher.watch)
        else:
            # Made here: aiohttp would look for the kind of payload that fits.
            data = BytesPayload(body) if body else None
            watcher.watch()
        answer_started = False
        try:
            async with await self._request(scope, upstream, data) as response:
                if not 200 <= response.status < 600:
                    # Also 101: an upstream that switches protocols unasked.
                    raise aiohttp.ClientError("the upstream sent a status that no client expects")
                answer_started = True
                if upstream in self._away:
                    self._away.discard(upstream)
                    log.warning("upstream %s answers again", upstream)
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
            reason = reason_of(error)
            if upstream not in self._away:
                self._away.add(upstream)
                log.error("upstream %s does not answer: %s", upstream, reason)
            message = f"upstream {upstream} did not answer: {reason}"
            await respond_error(send, 502, message, "upstream_error")
        finally:
            watcher.stop()

    async def _choose(self, scope: Scope, body: bytes) -> str:
        """Return the base URL of the upstream that serves the model of a request.

        Raises:
            UnreadableError: the model of the body cannot be told.
        """
        choose, headers = self.upstreams.choose, scope["headers"]
        if not self.upstreams.need_model or len(body) < _LONG_BODY:
            return choose(headers, body)
        return await asyncio.to_thread(choose, headers, body)

    async def _whole_body(
        self, scope: Scope, first: bytes, receive: Receive, send: Send
    ) -> bytes | None:
        """Read the rest of a body; return None if the client left, or was sent a refusal."""
        limit = self._longest_routed
        announced = header(scope["headers"], b"content-length") or b"0"
        try:
            if int(announced) <= limit:
                async with asyncio.timeout(BODY_SECONDS):
                    return await read_body(receive, limit, first)
        except TimeoutError:
            await respond_error(send, 408, "the request's body did not arrive in time", "timeout")
            return None
        except ClientLeftError:
            return None
        except BodyTooLongError:
            pass
        message = f"with several upstreams, a body may have {limit} bytes: it names the model"
        await respond_error(send, 413, message, "too_large")
        return None

    async def _request(self, scope: Scope, upstream: str, data: Any) -> aiohttp.ClientResponse:
        assert self._session is not None
        path = scope.get("raw_path") or scope["path"].encode()
        url = upstream + path.decode("ascii")
        if query := scope.get("query_string"):
            url += "?" + query.decode("ascii")
        fields = forwarded_request(scope["headers"], scope["http_version"], self._name)
        headers = [(name.decode("latin-1"), _decoded(value)) for name, value in fields]
        if isinstance(data, AsyncIterator):
            length = header(scope["headers"], b"content-length")
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
    headers = forwarded_response(response.raw_headers, response.status)
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


def _decoded(value: bytes) -> str:
    # aiohttp encodes headers as UTF-8, so UTF-8 values stay the same. Other values are taken
    # as Latin-1.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
