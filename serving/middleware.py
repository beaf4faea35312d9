"""The hook as pure ASGI middleware, round the gateway's relay or a server's own application.

`vllm serve MODEL --middleware serving.middleware.SproutMiddleware` puts it into vLLM, with
settings from SPROUT_* variables (`serving.settings.hook`; SPROUT_POLICY names the bundle).
"""

import asyncio
from typing import Any

import orjson

from serving.hook.answer import Answer
from serving.hook.assembly import embedded
from serving.hook.core import OWN_HEADERS, Hook
from serving.hook.openai_api import APIS
from serving.hook.plan import Plan
from serving.http.asgi import (
    BODY_SECONDS,
    App,
    Event,
    Headers,
    Receive,
    Scope,
    Send,
    decoded_headers,
    header,
)

# Answers to a request that the server found wrong: perhaps because of what we added.
REFUSED_STATUSES = frozenset((400, 413, 422))
_OWN = OWN_HEADERS.encode()


class SproutMiddleware:
    """Steers the OpenAI requests that pass; everything else passes untouched.

    Args:
        hook: None makes one from SPROUT_* variables, kept up by a thread of its own.

    Raises:
        ConfigError: the variables are wrong.
    """

    def __init__(self, app: App, hook: Hook | None = None) -> None:
        self._app = app
        self._hook = embedded() if hook is None else hook

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in APIS:
            await self._app(scope, receive, send)
            return
        parts, more = await self._body(receive)
        if parts is None:
            return
        raw = b"".join(parts)
        plan = await self._hook.plan(scope["path"], raw, decoded_headers(scope))
        steered = self._steered(plan)
        exchange = _Exchange(self._hook, plan, send)
        try:
            if steered is not None:
                await self._app(
                    _private(scope, len(steered)),
                    _replayed(steered, False, receive, exchange),
                    exchange.send,
                )
                if not exchange.refused:
                    return
                self._hook.withdraw(plan, "refused")
                exchange = _Exchange(self._hook, plan, send)
            await self._app(_private(scope), _replayed(raw, more, receive, exchange), exchange.send)
        except asyncio.CancelledError:
            exchange.left = True
            raise
        finally:
            exchange.end_early()

    def _steered(self, plan: Plan) -> bytes | None:
        """The body to send in place of what came, if any."""
        try:
            return None if plan.steered is None else orjson.dumps(plan.steered)
        except TypeError:
            # Nested more deeply than can be written, though it could be read.
            self._hook.withdraw(plan, "unwritable")
            return None

    async def _body(self, receive: Receive) -> tuple[list[bytes] | None, bool]:
        """The body's beginning, as far as it would be decided, and whether there is more.

        None if the client left, or took too long.
        """
        event = await receive()
        if event["type"] == "http.disconnect":
            return None, False
        parts, size = [event.get("body", b"")], len(event.get("body", b""))
        if not event.get("more_body"):
            return parts, False
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while event.get("more_body") and size <= self._hook.config.decided_bytes:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        return None, False
                    parts.append(event.get("body", b""))
                    size += len(parts[-1])
        except TimeoutError:
            return None, False
        return parts, bool(event.get("more_body"))


class _Exchange:
    """One answer on its way to the client, watched."""

    def __init__(self, hook: Hook, plan: Plan, send: Send) -> None:
        self._hook = hook
        self._plan = plan
        self._send = send
        self.answer: Answer = hook.answer(plan)
        self.refused = False
        self.left = False

    async def send(self, event: Event) -> None:
        """Pass an event of the answer on, with our headers; see its end."""
        kind = event["type"]
        if kind == "http.response.start":
            status = event["status"]
            if self._plan.steered is not None and status in REFUSED_STATUSES:
                self.refused = True
                return
            headers: Headers = list(event.get("headers", ()))
            self.answer.start(
                status,
                header(headers, b"content-type") or b"",
                header(headers, b"content-length"),
            )
            said = self._hook.headers(self._plan)
            headers += [(name.encode(), value.encode()) for name, value in said]
            event = {**event, "headers": headers}
        elif self.refused:
            return
        elif kind == "http.response.body":
            more = event.get("more_body", False)
            piece = self.answer.feed(event.get("body", b""), more)
            if self.answer.complete:
                self._end("completed" if self.answer.status < 500 else "upstream_failed")
            if not piece and more:
                return
            event = {**event, "body": piece}
        await self._send(event)

    def end_early(self) -> None:
        """The application is done; if the answer is not, say why."""
        if self.left:
            self._end("client_left")
        else:
            self._end("upstream_broke" if self.answer.status else "upstream_failed")

    def _end(self, outcome: str) -> None:
        self._hook.finish(self._plan, self.answer, outcome)


def _private(scope: Scope, length: int | None = None) -> Scope:
    """The request's head without our private headers, and with its body's new length."""
    headers = [pair for pair in scope["headers"] if not pair[0].startswith(_OWN)]
    if length is not None:
        framing = (b"content-length", b"transfer-encoding")
        headers = [pair for pair in headers if pair[0] not in framing]
        headers.append((b"content-length", str(length).encode()))
    return {**scope, "headers": headers}


def _replayed(body: bytes, more: bool, receive: Receive, exchange: _Exchange) -> Receive:
    """`receive` with `body` in place of what has been read of it."""
    first: list[Any] = [{"type": "http.request", "body": body, "more_body": more}]

    async def replay() -> Event:
        """The body that was read, then what comes."""
        if first:
            found: Event = first.pop()
            return found
        event = await receive()
        if event["type"] == "http.disconnect":
            exchange.left = True
        return event

    return replay
