"""`POST /v1/decide` and `POST /v1/outcome`, for callers that call the model themselves."""

import time
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.apis.api import INEXACT_INTEGER
from serving.apis.routes import APIS
from serving.hook.core import Hook
from serving.hook.outcome import ReportedAnswer, Usage
from serving.http.asgi import (
    Receive,
    Scope,
    Send,
    decoded_headers,
    read_post,
    respond,
    respond_error,
)
from serving.ledger.record import Amendment

DECIDE = "/v1/decide"
OUTCOME = "/v1/outcome"
ROUTES = frozenset((DECIDE, OUTCOME))
_LONGEST_BYTES = 2 << 20
Count = Annotated[int, Field(ge=0, le=1_000_000_000, strict=True)]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False, strict=True)]


class DecideRequest(BaseModel):
    """Body of POST /v1/decide: a request, as the caller would send it to `route`."""

    model_config = ConfigDict(extra="forbid")

    body: dict[str, Any]
    route: str = "/v1/chat/completions"


class OutcomeReport(BaseModel):
    """Body of POST /v1/outcome: how a decided request ended; times in seconds."""

    model_config = ConfigDict(extra="forbid")

    decision_id: str = Field(pattern="^[0-9a-f]{32}$")
    status: int = Field(200, ge=100, le=599, strict=True)
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    seconds: Seconds | None = None
    seconds_first: Seconds | None = None


class DecideRoutes:
    """ASGI application that serves both routes."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        raw = await read_post(scope, receive, send, _LONGEST_BYTES)
        if raw is None:
            return
        try:
            # orjson, not pydantic's parser: only orjson refuses bodies that are nested too deeply.
            parsed = orjson.loads(raw)
            if INEXACT_INTEGER.search(raw):
                raise ValueError(
                    "body: an integer of 19 digits or more cannot be kept exactly; use fewer"
                )
            answer = (
                await self._decide(DecideRequest.model_validate(parsed), decoded_headers(scope))
                if scope["path"] == DECIDE
                else self._record_outcome(OutcomeReport.model_validate(parsed))
            )
        except ValidationError as error:
            first_error = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first_error["loc"]) or "body"
            message = f"{field}: {first_error['msg']}"
            await respond_error(send, 422, message, "invalid_request_error")
            return
        except ValueError as error:
            await respond_error(send, 400, str(error), "invalid_request_error")
            return
        try:
            await respond(send, 200, orjson.dumps(answer))
        except TypeError:
            await respond_error(send, 422, "body: nested too deeply", "invalid_request_error")

    async def _decide(self, request: DecideRequest, headers: dict[str, str]) -> dict[str, Any]:
        if request.route not in APIS:
            raise ValueError(f"route {request.route[:80]!r}: give one of {', '.join(APIS)}")
        hook = self._hook
        plan = await hook.plan(request.route, request.body, headers)
        answer = ReportedAnswer(plan.started)
        hook.finish(plan, answer, "decided")
        record = plan.record
        return {
            "decision_id": record.decision_id,
            "directive": record.directive if record.applied else "none",
            "probability": record.probability if record.applied else 1.0,
            "would_be": record.would_be,
            "reason": record.reason,
            "mode": record.mode,
            "policy_version": record.policy_version,
            "intensity_g_per_kwh": record.intensity_g_per_kwh,
            "intensity_age_seconds": record.intensity_age_seconds,
            "body": plan.steered if plan.steered is not None else request.body,
        }

    def _record_outcome(self, outcome: OutcomeReport) -> dict[str, Any]:
        tokens = outcome.prompt_tokens, outcome.completion_tokens
        usage = Usage(*tokens, None if tokens[1] is None else "reported")
        changes = outcome.model_dump(exclude_none=True, exclude={"decision_id"})
        changes["outcome"] = "completed" if outcome.status < 500 else "upstream_failed"
        self._hook.report(Amendment(outcome.decision_id, changes), usage)
        return {"recorded": True, "time": time.time()}
