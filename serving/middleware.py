"""The hook as pure ASGI middleware, around the gateway's relay or a model server's application.

`vllm serve MODEL --middleware serving.middleware.SproutMiddleware` adds the hook to vLLM. Its
settings come from SPROUT_* variables (`serving.settings.hook`); SPROUT_POLICY names the bundle.
"""

import asyncio
from typing import Any

import orjson

from serving.hook.answer import Answer
from serving.hook.assembly import make_embedded_hook
from serving.hook.core import HEADER_PREFIX, Hook
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

# Status codes by which the upstream rejects a request as invalid. The directive may be the cause.
REFUSED_STATUSES = frozenset((400, 413, 422))
_OWN_HEADER_PREFIX = HEADER_PREFIX.encode()


class SproutMiddleware:
    """ASGI middleware that steers OpenAI requests and passes everything else on untouched.

    If the application rejects a steered request as invalid (`REFUSED_STATUSES`), the original
    request is sent instead.

    Args:
        app: the application to wrap.
        hook: the hook that decides. None builds one from SPROUT_* variables and refreshes it
            from its own thread.

    Raises:
        ConfigError: the variables are wrong.
    """

    def __init__(self, app: App, hook: Hook | None = None) -> None:
        self._app = app
        self._hook = make_embedded_hook() if hook is None else hook

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in APIS:
            await self._app(scope, receive, send)
            return
        parts, more = await self._read_body(receive)
        if parts is None:
            return
        raw = b"".join(parts)
        plan = await self._hook.plan(scope["path"], raw, decoded_headers(scope))
        steered = self._steered_body(plan)
        exchange = _Exchange(self._hook, plan, send)
        try:
            if steered is not None:
                await self._app(
                    _forwarded_scope(scope, len(steered)),
                    _replayed(steered, False, receive, exchange),
                    exchange.send,
                )
                if not exchange.refused:
                    return
                self._hook.withdraw(plan, "refused")
                exchange = _Exchange(self._hook, plan, send)
            await self._app(
                _forwarded_scope(scope), _replayed(raw, more, receive, exchange), exchange.send
            )
        except asyncio.CancelledError:
            exchange.client_left = True
            raise
        finally:
            exchange.end_early()

    def _steered_body(self, plan: Plan) -> bytes | None:
        """Return the steered body as JSON, or None to send the original body."""
        try:
            return None if plan.steered is None else orjson.dumps(plan.steered)
        except TypeError:
            # orjson parses deeper nesting than it can write.
            self._hook.withdraw(plan, "unwritable")
            return None

    async def _read_body(self, receive: Receive) -> tuple[list[bytes] | None, bool]:
        """Read the body until it ends or exceeds the size that the hook decides.

        Returns the parts and whether more follow. The parts are None if the client
        disconnected or took too long.
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
    """Sends one answer to the client, observes it and records its outcome.

    Attributes:
        answer: the observer of the answer.
        refused: whether the application rejected the steered request; nothing was sent then.
        client_left: whether the client disconnected.
    """

    def __init__(self, hook: Hook, plan: Plan, send: Send) -> None:
        self._hook = hook
        self._plan = plan
        self._send = send
        self.answer: Answer = hook.answer(plan)
        self.refused = False
        self.client_left = False

    async def send(self, event: Event) -> None:
        """Forward an event of the answer with the hook's headers; record a complete answer."""
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
            hook_headers = self._hook.headers(self._plan)
            headers += [(name.encode(), value.encode()) for name, value in hook_headers]
            event = {**event, "headers": headers}
        elif self.refused:
            return
        elif kind == "http.response.body":
            more = event.get("more_body", False)
            piece = self.answer.feed(event.get("body", b""), more)
            if self.answer.complete:
                self._finish("completed" if self.answer.status < 500 else "upstream_failed")
            if not piece and more:
                return
            event = {**event, "body": piece}
        await self._send(event)

    def end_early(self) -> None:
        """Record why the answer is incomplete; no effect if its outcome is already recorded."""
        if self.client_left:
            self._finish("client_left")
        else:
            self._finish("upstream_broke" if self.answer.status else "upstream_failed")

    def _finish(self, outcome: str) -> None:
        self._hook.finish(self._plan, self.answer, outcome)


def _forwarded_scope(scope: Scope, length: int | None = None) -> Scope:
    """Return the scope without the hook's own headers.

    Args:
        length: size of a replaced body, bytes; None if the body is the original.
    """
    headers = [pair for pair in scope["headers"] if not pair[0].startswith(_OWN_HEADER_PREFIX)]
    if length is not None:
        framing = (b"content-length", b"transfer-encoding")
        headers = [pair for pair in headers if pair[0] not in framing]
        headers.append((b"content-length", str(length).encode()))
    return {**scope, "headers": headers}


def _replayed(body: bytes, more: bool, receive: Receive, exchange: _Exchange) -> Receive:
    """Return a `receive` that first delivers `body`, then the events not read yet."""
    first: list[Any] = [{"type": "http.request", "body": body, "more_body": more}]

    async def replay() -> Event:
        """Return the next event, the body that was read first."""
        if first:
            first_event: Event = first.pop()
            return first_event
        event = await receive()
        if event["type"] == "http.disconnect":
            exchange.client_left = True
        return event

    return replay
