"""The gateway: a pure ASGI application in front of an OpenAI-compatible server.

Chat completions are steered; everything else passes untouched. A failure of ours
never fails a request: it is sent on as it came, and counted.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
from yarl import URL

from serving.decision import Decider, Decision
from serving.metrics import CONTENT_TYPE, Metrics

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CHAT = "/v1/chat/completions"
# A chat longer than this is passed on undecided rather than parsed.
DECIDED_BYTES = 1 << 20
TAIL_BYTES = 4096
# RFC 9110, section 7.6.1, and what belongs to one hop only.
HOP_HEADERS = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te"),
    *(b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect"),
}
OWN_HEADERS = b"x-sprout-"
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')


class Gateway:
    """ASGI application over one upstream and one decider."""

    def __init__(self, upstream: str, decider: Decider) -> None:
        self._upstream = upstream.rstrip("/")
        self._decider = decider
        self._metrics = Metrics(decider.bundle.version, decider.bundle.model)
        self._session: aiohttp.ClientSession | None = None
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
        elif scope["path"] == "/healthz":
            await _answer(send, 200, b'{"status":"ok"}\n', b"application/json")
        elif scope["path"] == "/metrics":
            await _answer(send, 200, self._metrics.render(), CONTENT_TYPE.encode())
        else:
            await self._proxy(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0),
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                    auto_decompress=False,
                )
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._session is not None:
                    await self._session.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _proxy(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        body = await _body(receive)
        if body is None:
            return
        decision: Decision | None = None
        if scope["method"] == "POST" and scope["path"] == CHAT:
            body, decision = self._steered(scope, body)
            self._metrics.decision_seconds.observe(time.perf_counter() - started)
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            relay = asyncio.ensure_future(self._relay(scope, body, decision, send))
            gone = asyncio.ensure_future(_disconnected(receive))
            await asyncio.wait({relay, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            # A client that left needs no answer: stop upstream's work too.
            if not relay.done():
                relay.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            try:
                await relay
            except asyncio.CancelledError:
                return
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
            self._metrics.request_seconds.observe(time.perf_counter() - started)

    def _steered(self, scope: Scope, raw: bytes) -> tuple[bytes, Decision | None]:
        """The body to send and the decision; the raw body and None where we failed."""
        try:
            if len(raw) > DECIDED_BYTES:
                self._metrics.fail_open.labels("too_large").inc()
                return raw, None
            body = json.loads(raw)
            task = _header(scope, b"x-sprout-task")
            opt_out = _header(scope, b"x-sprout-opt-out") is not None
            decision = self._decider.decide(body, task, self._in_flight, opt_out)
            self._metrics.intensity.set(decision.intensity.g_per_kwh)
            self._metrics.intensity_age.set(decision.intensity.age_seconds)
            if decision.action == 0:
                return raw, decision
            return json.dumps(self._decider.steer(body, decision)).encode(), decision
        except Exception as error:
            # Whatever it was, it is ours (or upstream's to judge): pass the request on.
            self._metrics.fail_open.labels(type(error).__name__).inc()
            return raw, None

    async def _relay(
        self, scope: Scope, body: bytes, decision: Decision | None, send: Send
    ) -> None:
        assert self._session is not None
        path = scope.get("raw_path") or scope["path"].encode()
        url = self._upstream + path.decode("ascii")
        if scope.get("query_string"):
            url += "?" + scope["query_string"].decode("ascii")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in HOP_HEADERS and not name.startswith(OWN_HEADERS)
        ]
        began = False
        directive = decision.directive if decision else "none"
        reason = decision.reason if decision else "passed"
        try:
            async with self._session.request(
                scope["method"],
                URL(url, encoded=True),
                data=body or None,
                headers=headers,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                allow_redirects=False,
            ) as response:
                self._metrics.requests.labels(directive, reason, str(response.status)).inc()
                await send(
                    {
                        "type": "http.response.start",
                        "status": response.status,
                        "headers": _relayed(response.raw_headers) + self._headers(decision),
                    }
                )
                began = True
                tail = b""
                async for chunk in response.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    tail = (tail + chunk)[-TAIL_BYTES:]
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                self._count_tokens(directive, tail)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._metrics.upstream_errors.inc()
            if began:
                # Bytes are out: break the connection, as upstream alone would have.
                raise
            self._metrics.requests.labels(directive, reason, "502").inc()
            message = f"upstream did not answer: {type(error).__name__}"
            text = json.dumps({"error": {"message": message, "type": "upstream_error"}}).encode()
            await _answer(send, 502, text, b"application/json")

    def _headers(self, decision: Decision | None) -> Headers:
        if decision is None:
            return [(b"x-sprout-directive", b"none"), (b"x-sprout-reason", b"passed")]
        pairs = {
            "directive": decision.directive,
            "probability": f"{decision.probability:.6f}",
            "policy-version": self._decider.bundle.version,
            "reason": decision.reason,
            "intensity": f"{decision.intensity.g_per_kwh:.1f}",
            "intensity-age": f"{decision.intensity.age_seconds:.0f}",
        }
        return [(OWN_HEADERS + name.encode(), value.encode()) for name, value in pairs.items()]

    def _count_tokens(self, directive: str, tail: bytes) -> None:
        found = _COMPLETION_TOKENS.findall(tail)
        if found:
            self._metrics.completion_tokens.labels(directive).inc(int(found[-1]))


def _relayed(raw: Any) -> Headers:
    return [(n.lower(), v) for n, v in raw if n.lower() not in HOP_HEADERS - {b"content-length"}]


def _header(scope: Scope, name: bytes) -> str | None:
    return next((v.decode("latin-1") for n, v in scope["headers"] if n == name), None)


async def _body(receive: Receive) -> bytes | None:
    """The whole request body; None if the client left."""
    parts = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _answer(send: Send, status: int, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
