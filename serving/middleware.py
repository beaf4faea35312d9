"""The hook as pure ASGI middleware, around the gateway's relay or a model server's application.

`vllm serve MODEL --middleware serving.middleware.SproutMiddleware` adds the hook to vLLM. Its
settings come from SPROUT_* variables (`serving.settings.hook`); SPROUT_POLICY names the bundle.
"""

import asyncio
from typing import Any

import orjson

from serving.apis.routes import APIS
from serving.embedded import make_embedded_hook
from serving.hook.core import Hook
from serving.hook.plan import Plan
from serving.http.asgi import (
    BODY_SECONDS,
    App,
    Event,
    Receive,
    Scope,
    Send,
    decoded_headers,
    header,
    respond_error,
)
from serving.http.exchange import OWN_HEADER_PREFIX, Exchange
from serving.http.feedback_route import FEEDBACK, FeedbackRoute
from serving.settings.control import EVALUATION_HEADER

# Fields that describe the bytes of a body, and are wrong for a steered one.
_FRAMING = frozenset(
    (
        *(b"content-length", b"transfer-encoding", b"content-md5", b"content-digest"),
        *(b"repr-digest", b"digest"),
    )
)


class SproutMiddleware:
    """ASGI middleware that steers OpenAI requests and passes everything else on untouched.

    If the application refuses a steered request (`serving.hook.refusals`), the original request is
    sent instead.

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
        self._feedback = FeedbackRoute(self._hook)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http" and scope["path"] == FEEDBACK:
            await self._feedback(scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in APIS:
            await self._app(scope, receive, send)
            return
        mark = header(scope["headers"], EVALUATION_HEADER.encode())
        if mark is not None and self._hook.is_evaluation(mark.decode("latin-1")):
            await self._app(scope, receive, send)
            return
        try:
            parts, more = await self._read_body(receive)
        except TimeoutError:
            message = "the request's body did not arrive in time"
            await respond_error(send, 408, message, "timeout")
            return
        if parts is None:
            return
        raw = b"".join(parts)
        plan = await self._hook.plan(scope["path"], raw, decoded_headers(scope))
        steered = self._steered_body(plan)
        exchange = Exchange(self._hook, plan, send)
        try:
            if steered is not None:
                await self._send_steered(scope, steered, receive, exchange)
                if not exchange.refused or exchange.client_left:
                    return
                changes = plan.changes
                self._hook.withdraw(plan, "refused")
                exchange = Exchange(self._hook, plan, send)
                await self._send_original(scope, raw, more, receive, exchange)
                if not exchange.client_left:
                    self._hook.refusals.resent(plan.record.model, changes, exchange.final_status)
                return
            await self._send_original(scope, raw, more, receive, exchange)
        except asyncio.CancelledError:
            exchange.client_left = True
            raise
        except Exception:
            # The answer broke. Its client gets what there is of it, and no other error.
            if not exchange.refused:
                await exchange.release()
                raise
            await respond_error(send, 502, "the upstream's answer broke off", "upstream_error")
        finally:
            exchange.end_early()

    async def _send_steered(
        self, scope: Scope, steered: bytes, receive: Receive, exchange: Exchange
    ) -> None:
        """Send the steered request; once it is refused, its answer must end soon."""
        try:
            async with asyncio.timeout(None) as exchange.limit:
                await self._app(
                    _forwarded_scope(scope, exchange, len(steered)),
                    _replayed(steered, False, receive, exchange),
                    exchange.send,
                )
        except TimeoutError:
            if not exchange.refused:
                raise

    async def _send_original(
        self, scope: Scope, raw: bytes, more: bool, receive: Receive, exchange: Exchange
    ) -> None:
        await self._app(
            _forwarded_scope(scope, exchange),
            _replayed(raw, more, receive, exchange),
            exchange.send,
        )

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

        Returns the parts and whether more follow. The parts are None if the client disconnected.

        Raises:
            TimeoutError: the client took too long.
        """
        event = await receive()
        if event["type"] == "http.disconnect":
            return None, False
        parts, size = [event.get("body", b"")], len(event.get("body", b""))
        if not event.get("more_body"):
            return parts, False
        async with asyncio.timeout(BODY_SECONDS):
            while event.get("more_body") and size <= self._hook.config.decided_bytes:
                event = await receive()
                if event["type"] == "http.disconnect":
                    return None, False
                parts.append(event.get("body", b""))
                size += len(parts[-1])
        return parts, bool(event.get("more_body"))


def _forwarded_scope(scope: Scope, exchange: Exchange, length: int | None = None) -> Scope:
    """Return the scope without the hook's own headers.

    Args:
        length: size of a replaced body, bytes; None if the body is the original.
    """
    dropped: frozenset[bytes] = frozenset() if length is None else _FRAMING
    asks_identity = exchange.asks_identity
    headers = [
        pair
        for pair in scope["headers"]
        if pair[0] not in dropped
        and not pair[0].startswith(OWN_HEADER_PREFIX)
        and not (asks_identity and pair[0] == b"accept-encoding")
    ]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    if asks_identity:
        headers.append((b"accept-encoding", b"identity"))
    return {**scope, "headers": headers}


def _replayed(body: bytes, more: bool, receive: Receive, exchange: Exchange) -> Receive:
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
