"""One answer on its way from the application to the client, observed by the hook."""

import asyncio

from serving.apis.facts import FAILED
from serving.hook.answer import Answer
from serving.hook.core import Hook
from serving.hook.headers import HEADER_PREFIX
from serving.hook.plan import Plan
from serving.http.asgi import Event, Send

OWN_HEADER_PREFIX = HEADER_PREFIX.encode()
# Time for the rest of a refused answer, s; nothing of it is sent on.
_REFUSAL_SECONDS = 5.0


class Exchange:
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
            headers = [pair for pair in headers if not pair[0].startswith(OWN_HEADER_PREFIX)]
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
