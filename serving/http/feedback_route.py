"""`POST /v1/feedback` on the gateway's port, for whoever has the token of an answer."""

import time

import orjson
from pydantic import ValidationError

from serving.apis.feedback import FeedbackBody, token_problem
from serving.hook.core import Hook
from serving.http.asgi import (
    Receive,
    Scope,
    Send,
    read_post,
    respond,
    respond_error,
)
from serving.ledger.quality.feedback import Feedback

FEEDBACK = "/v1/feedback"
# Two texts of characters that take 6 bytes each in JSON.
LONGEST_BYTES = 256 << 10
USER = "user"


class FeedbackRoute:
    """ASGI application that serves the route.

    What is answered with 200 stands in the journal, so no end of a process loses it.
    """

    def __init__(self, hook: Hook) -> None:
        self._hook = hook

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        raw = await read_post(scope, receive, send, LONGEST_BYTES)
        if raw is None:
            return
        try:
            body = read_feedback(raw)
        except ValueError as error:
            await respond_error(send, 422, str(error), "invalid_request_error")
            return
        salt = self._hook.control.now.salt
        if (problem := token_problem(salt, body.decision_id, body.token)) is not None:
            await respond_error(send, 403, problem, "auth")
        elif self._hook.take_feedback(feedback_row(body, USER)):
            await respond(send, 200, b'{"recorded":true}')
        else:
            message = "the feedback cannot be kept now; send it again later"
            await respond_error(send, 503, message, "ledger_error")


def read_feedback(raw: bytes) -> FeedbackBody:
    """Return a body of the route.

    Raises:
        ValueError: it is no such body; the message names the field.
    """
    try:
        return FeedbackBody.model_validate(orjson.loads(raw))
    except ValidationError as error:
        first_error = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first_error["loc"]) or "body"
        raise ValueError(f"{field}: {first_error['msg']}") from None
    except orjson.JSONDecodeError:
        raise ValueError("body: not JSON") from None


def feedback_row(body: FeedbackBody, source: str) -> Feedback:
    """Return the ledger's row for an opinion."""
    return Feedback(
        f"{body.decision_id}-{source}",
        body.decision_id,
        time.time(),
        source,
        body.value,
        body.correction,
        body.comment,
    )
