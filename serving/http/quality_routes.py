"""Admin routes of the watched quality: the report, the review queue, and feedback."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from serving.http.asgi import Scope
from serving.http.feedback_route import FEEDBACK, feedback_row, read_feedback
from serving.http.query import period_of, query_of
from serving.ledger.database import Ledger
from serving.ledger.quality.store import QualityStore
from serving.quality.judges.reviews import Choice, Reviews
from serving.quality.report import read_length_control, read_quality
from serving.quality.signs import read_signs

QUALITY, REVIEW = "/v1/quality", "/v1/review"
_ADMIN = "admin"
Route = Callable[[Scope, bytes], Awaitable[Any]]


class ReviewBody(BaseModel):
    """Body of POST /v1/review: a person's verdict on a pair of answers."""

    model_config = ConfigDict(extra="forbid")

    review_id: str = Field(max_length=100)
    reviewer: str = Field(pattern=r"^[\w.@-]{1,100}$")
    verdict: Choice


class QualityRoutes:
    """Handlers by method and path.

    GET /v1/quality?since=&until=&hours=, GET /v1/review?reviewer=, POST /v1/review, and POST
    /v1/feedback without a token of the answer.

    Args:
        ledger: the database.
        reviews: the waiting pairs; None if no answers are judged here.
    """

    def __init__(self, ledger: Ledger, reviews: Reviews | None) -> None:
        self._ledger = ledger
        self._store = QualityStore(ledger)
        self._reviews = reviews
        self.routes: dict[tuple[str, str], Route] = {
            ("GET", QUALITY): self._quality,
            ("GET", REVIEW): self._next_review,
            ("POST", REVIEW): self._review,
            ("POST", FEEDBACK): self._feedback,
        }

    async def _quality(self, scope: Scope, body: bytes) -> Any:
        since, until = period_of(scope)
        return await asyncio.to_thread(
            lambda: {
                **read_quality(self._ledger, since, until),
                "length_control": read_length_control(self._ledger, since, until),
                "signs": read_signs(self._ledger, since, until),
            }
        )

    async def _next_review(self, scope: Scope, body: bytes) -> Any:
        reviewer = query_of(scope, frozenset(("reviewer",))).get("reviewer")
        if not reviewer:
            raise ValueError("reviewer: give the name of whoever reviews")
        pair, waiting = self._queue.next(reviewer)
        return {"waiting": waiting, "review": None if pair is None else pair.shown()}

    async def _review(self, scope: Scope, body: bytes) -> Any:
        given = ReviewBody.model_validate(orjson.loads(body))
        verdict = self._queue.judge(given.review_id, given.verdict, given.reviewer)
        await asyncio.to_thread(self._store.add_verdict, verdict)
        self._queue.done(given.review_id, given.reviewer)
        return {"recorded": True}

    async def _feedback(self, scope: Scope, body: bytes) -> Any:
        given = read_feedback(body)
        if await asyncio.to_thread(self._ledger.find, given.decision_id) is None:
            raise KeyError("no such decision in the ledger (yet)")
        row = feedback_row(given, given.source or _ADMIN)
        await asyncio.to_thread(self._store.add_feedback, [row])
        return {"recorded": True}

    @property
    def _queue(self) -> Reviews:
        if self._reviews is None:
            raise KeyError("no answers are judged here: the hook was started without --judge")
        return self._reviews
