"""`POST /v1/decide` and `POST /v1/outcome`: for callers who send to the model themselves."""

import time
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.hook.answer import ReportedAnswer, Usage
from serving.hook.core import Hook
from serving.hook.openai_api import APIS, UNKEPT
from serving.http.asgi import (
    Receive,
    Scope,
    Send,
    decoded_headers,
    read_body,
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
    """What /v1/decide takes: the request as it would be sent to `route`."""

    model_config = ConfigDict(extra="forbid")

    body: dict[str, Any]
    route: str = "/v1/chat/completions"


class OutcomeReport(BaseModel):
    """What /v1/outcome takes: how a decided request ended."""

    model_config = ConfigDict(extra="forbid")

    decision_id: str = Field(pattern="^[0-9a-f]{32}$")
    status: int = Field(200, ge=100, le=599, strict=True)
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    seconds: Seconds | None = None
    seconds_first: Seconds | None = None


class DecideRoutes:
    """ASGI application of both routes."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            headers = [(b"allow", b"POST")]
            await respond(send, 405, b'{"error":{"message":"use POST"}}', headers=headers)
            return
        raw = await read_body(receive, _LONGEST_BYTES)
        if raw is None:
            await respond_error(
                send, 413, f"a body of more than {_LONGEST_BYTES} bytes", "too_large"
            )
            return
        try:
            # Parsed by itself: what refuses deep nesting here would not, there.
            given = orjson.loads(raw)
            if UNKEPT.search(raw):
                raise ValueError("a whole number of 19 digits or more could not be kept exactly")
            answer = (
                await self._decided(DecideRequest.model_validate(given), decoded_headers(scope))
                if scope["path"] == DECIDE
                else self._reported(OutcomeReport.model_validate(given))
            )
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in found["loc"]) or "body"
            await respond_error(send, 422, f"{place}: {found['msg']}", "invalid_request_error")
            return
        except ValueError as error:
            await respond_error(send, 400, str(error), "invalid_request_error")
            return
        try:
            await respond(send, 200, orjson.dumps(answer))
        except TypeError:
            await respond_error(send, 422, "body: nested too deeply", "invalid_request_error")

    async def _decided(self, asked: DecideRequest, headers: dict[str, str]) -> dict[str, Any]:
        if asked.route not in APIS:
            raise ValueError(f"route {asked.route[:80]!r}; one of {', '.join(APIS)}")
        hook = self._hook
        plan = await hook.plan(asked.route, asked.body, headers)
        answer = ReportedAnswer(plan.started)
        hook.finish(plan, answer, "decided")
        record = plan.record
        return {
            "decision_id": record.decision_id,
            "directive": record.directive if record.applied else "none",
            "probability": record.probability if record.applied else 1.0,
            "reason": record.reason,
            "mode": record.mode,
            "policy_version": record.policy_version,
            "intensity_g_per_kwh": record.intensity_g_per_kwh,
            "intensity_age_seconds": record.intensity_age_seconds,
            "body": plan.steered if plan.steered is not None else asked.body,
        }

    def _reported(self, reported: OutcomeReport) -> dict[str, Any]:
        tokens = reported.prompt_tokens, reported.completion_tokens
        usage = Usage(*tokens, None if tokens[1] is None else "reported")
        changes = reported.model_dump(exclude_none=True, exclude={"decision_id"})
        changes["outcome"] = "completed" if reported.status < 500 else "upstream_failed"
        self._hook.report(Amendment(reported.decision_id, changes), usage)
        return {"recorded": True, "time": time.time()}
