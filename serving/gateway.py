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
NOT_DECIDED = ("none", "passed")
# Answers to a request that upstream found wrong: perhaps because of what we added.
REFUSED = {400, 413, 422}
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
                    # Idle connections end before a server's own limit (uvicorn: 5 s), so that
                    # no request is sent into one that is just being closed.
                    connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
                    # One client's cookies are not another's.
                    cookie_jar=aiohttp.DummyCookieJar(),
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
        raw = await _body(receive)
        if raw is None:
            return
        body = raw
        decision: Decision | None = None
        if scope["method"] == "POST" and scope["path"] == CHAT:
            with self._metrics.decision_seconds.time():
                body, decision = self._steered(scope, raw)
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        relay = asyncio.ensure_future(self._relay(scope, (body, raw), decision, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({relay, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A client that left needs no answer: stop upstream's work too.
            gone.cancel()
            relay.cancel()
            results = await asyncio.gather(relay, gone, return_exceptions=True)
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
            self._metrics.request_seconds.observe(time.perf_counter() - started)
        if isinstance(results[0], Exception):
            raise results[0]

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
        self, scope: Scope, bodies: tuple[bytes, bytes], decision: Decision | None, send: Send
    ) -> None:
        """Send the steered body; if upstream refuses what we changed, the raw one."""
        began = False
        try:
            response = await self._ask(scope, bodies[0])
            if response.status in REFUSED and bodies[0] != bodies[1]:
                response.close()
                self._metrics.fail_open.labels("refused").inc()
                decision = None
                response = await self._ask(scope, bodies[1])
            async with response:
                began = True
                await self._answer_with(response, decision, send)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._metrics.upstream_errors.inc()
            if began:
                # Bytes are out: break the connection, as upstream alone would have.
                raise
            self._count(decision, 502)
            message = f"upstream did not answer: {type(error).__name__}"
            text = json.dumps({"error": {"message": message, "type": "upstream_error"}}).encode()
            await _answer(send, 502, text, b"application/json")

    async def _ask(self, scope: Scope, body: bytes) -> aiohttp.ClientResponse:
        assert self._session is not None
        path = scope.get("raw_path") or scope["path"].encode()
        url = self._upstream + path.decode("ascii")
        if scope.get("query_string"):
            url += "?" + scope["query_string"].decode("ascii")
        headers = [
            (name.decode("latin-1"), _text(value))
            for name, value in scope["headers"]
            if name not in HOP_HEADERS and not name.startswith(OWN_HEADERS)
        ]
        return await self._session.request(
            scope["method"],
            URL(url, encoded=True),
            data=body or None,
            headers=headers,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        )

    async def _answer_with(
        self, response: aiohttp.ClientResponse, decision: Decision | None, send: Send
    ) -> None:
        self._count(decision, response.status)
        headers = _relayed(response) + self._headers(decision)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        tail = b""
        async for chunk in response.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            tail = (tail + chunk)[-TAIL_BYTES:]
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        found = _COMPLETION_TOKENS.findall(tail)
        if decision is not None and found:
            self._metrics.completion_tokens.labels(decision.directive).inc(int(found[-1]))

    def _count(self, decision: Decision | None, status: int) -> None:
        directive, reason = (decision.directive, decision.reason) if decision else NOT_DECIDED
        self._metrics.requests.labels(directive, reason, str(status)).inc()

    def _headers(self, decision: Decision | None) -> Headers:
        if decision is None:
            directive, reason = (text.encode() for text in NOT_DECIDED)
            return [(b"x-sprout-directive", directive), (b"x-sprout-reason", reason)]
        pairs = {
            "directive": decision.directive,
            "probability": f"{decision.probability:.6f}",
            "policy-version": self._decider.bundle.version,
            "reason": decision.reason,
            "intensity": f"{decision.intensity.g_per_kwh:.1f}",
            "intensity-age": f"{decision.intensity.age_seconds:.0f}",
        }
        return [(OWN_HEADERS + name.encode(), value.encode()) for name, value in pairs.items()]


def _relayed(response: aiohttp.ClientResponse) -> Headers:
    # The length of a 304 is that of a body which does not come.
    dropped = HOP_HEADERS if response.status == 304 else HOP_HEADERS - {b"content-length"}
    return [(n.lower(), v) for n, v in response.raw_headers if n.lower() not in dropped]


def _text(value: bytes) -> str:
    # The client library writes headers as UTF-8; what is not UTF-8 is kept readable.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


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
