"""The hook as pure ASGI middleware, around the gateway's relay or a model server's application.

`vllm serve MODEL --middleware serving.middleware.SproutMiddleware` adds the hook to vLLM. Its
settings come from SPROUT_* variables (`serving.settings.hook`); SPROUT_POLICY names the bundle.
"""

import asyncio
from typing import Any

import orjson

from serving.apis.facts import FAILED
from serving.apis.routes import APIS
from serving.hook.answer import Answer
from serving.hook.assembly import make_embedded_hook
from serving.hook.core import HEADER_PREFIX, Hook
from serving.hook.plan import Plan
from serving.http.asgi import (
    BODY_SECONDS,
    App,
    Event,
    Receive,
    Scope,
    Send,
    decoded_headers,
    respond_error,
)

_OWN_HEADER_PREFIX = HEADER_PREFIX.encode()
# Fields that describe the bytes of a body, and are wrong for a steered one.
_FRAMING = frozenset(
    (
        *(b"content-length", b"transfer-encoding", b"content-md5", b"content-digest"),
        *(b"repr-digest", b"digest"),
    )
)
# Time for the rest of a refused answer, s; nothing of it is sent on.
_REFUSAL_SECONDS = 5.0


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in APIS:
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
        exchange = _Exchange(self._hook, plan, send)
        try:
            if steered is not None:
                await self._send_steered(scope, steered, receive, exchange)
                if not exchange.refused or exchange.client_left:
                    return
                changes = plan.changes
                self._hook.withdraw(plan, "refused")
                exchange = _Exchange(self._hook, plan, send)
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
        self, scope: Scope, steered: bytes, receive: Receive, exchange: "_Exchange"
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
        self, scope: Scope, raw: bytes, more: bool, receive: Receive, exchange: "_Exchange"
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


class _Exchange:
    """Sends one answer to the client, observes it and records its outcome.

    The head of a steered stream is held until the first event: an error there is a refusal too.

    Attributes:
        answer: the observer of the answer.
        refused: whether the application rejected the steered request; nothing was sent then.
        client_left: whether the client disconnected.
    """

    def __init__(self, hook: Hook, plan: Plan, send: Send) -> None:
        self._hook = hook
        self._plan = plan
        self._send = send
        self._held_head: Event | None = None
        self.answer: Answer = hook.answer(plan)
        self.refused = False
        self.client_left = False
        self.limit: asyncio.Timeout | None = None

    @property
    def final_status(self) -> int:
        """Status of the answer; 500 if it says itself that it failed, and 0 if there is none."""
        return 500 if self.answer.facts.failure == FAILED else self.answer.status

    @property
    def asks_identity(self) -> bool:
        """True if the answer is to come without a content coding, because it is edited."""
        return self._plan.record.streamed and self.answer.may_be_edited

    @property
    def _steered(self) -> bool:
        return self._plan.steered is not None

    async def send(self, event: Event) -> None:
        """Forward an event of the answer with the hook's headers; record a complete answer."""
        if self.refused:
            return
        kind = event["type"]
        if kind == "http.response.start":
            await self._start(event)
            return
        if kind == "http.response.body":
            more = event.get("more_body", False)
            piece = self.answer.feed(event.get("body", b""), more)
            if self._held_head is not None and self._is_refusal():
                self._refuse()
                return
            if self.answer.complete:
                self._finish(self._outcome())
            if not piece and more:
                return
            event = {**event, "body": piece}
        await self.release()
        await self._send(event)

    async def release(self) -> None:
        """Send the head if it was held."""
        if self._held_head is not None:
            head, self._held_head = self._held_head, None
            if self._steered and self.answer.status < 400:
                self._hook.refusals.accepted(self._plan.record.model, self._plan.changes)
            await self._send(head)

    def end_early(self) -> None:
        """Record why the answer is incomplete; no effect if its outcome is already recorded."""
        if self.client_left or self.answer.facts.failure:
            self._finish(self._outcome())
        else:
            self._finish("upstream_broke" if self.answer.status else "upstream_failed")

    async def _start(self, event: Event) -> None:
        status, model = event["status"], self._plan.record.model
        if self._steered and self._hook.refusals.may_resend(model, status):
            self._refuse()
            return
        # Applications may send names in any case.
        received = [(name.lower(), value) for name, value in event.get("headers", ())]
        headers = self.answer.start(status, received)
        added = self._hook.headers(self._plan)
        if added:
            # Another gateway upstream may have added its own.
            headers = [pair for pair in headers if not pair[0].startswith(_OWN_HEADER_PREFIX)]
        self._held_head = {**event, "headers": [*headers, *added]}
        if not (self._steered and self.answer.is_stream and status == 200):
            await self.release()

    def _refuse(self) -> None:
        self.refused = True
        if self.limit is not None:
            self.limit.reschedule(asyncio.get_running_loop().time() + _REFUSAL_SECONDS)

    def _is_refusal(self) -> bool:
        facts = self.answer.facts
        return (
            facts.failure == FAILED
            and not facts.deltas
            and self._hook.refusals.may_resend(self._plan.record.model, 500)
        )

    def _outcome(self) -> str:
        if self.client_left:
            return "client_left"
        failure = self.answer.facts.failure
        if failure and self.answer.status < 300:
            return f"answer_{failure}"
        return "completed" if self.answer.status < 500 else "upstream_failed"

    def _finish(self, outcome: str) -> None:
        self._hook.finish(self._plan, self.answer, outcome)


def _forwarded_scope(scope: Scope, exchange: _Exchange, length: int | None = None) -> Scope:
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
        and not pair[0].startswith(_OWN_HEADER_PREFIX)
        and not (asks_identity and pair[0] == b"accept-encoding")
    ]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    if asks_identity:
        headers.append((b"accept-encoding", b"identity"))
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
