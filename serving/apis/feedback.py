"""The body of POST /v1/feedback, and the token that lets whoever got an answer judge it."""

import hashlib
import hmac
import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Header of an answer with its token.
TOKEN_HEADER = "x-sprout-feedback-token"  # noqa: S105
# Feedback is taken for this long after the decision, s.
TOKEN_SECONDS = 30 * 86400.0
LONGEST_TEXT = 16_384
_DECISION_ID = "^[0-9a-f]{32}$"
# Hexadecimal digits of a decision id that are its time in ms.
_TIME_DIGITS = 12

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT, pattern=r"^[^\x00]*$")]


class FeedbackBody(BaseModel):
    """An opinion of an answer: a thumb or a score, a correction, a comment."""

    model_config = ConfigDict(extra="forbid")

    decision_id: str = Field(pattern=_DECISION_ID)
    token: str | None = Field(None, max_length=64, description=f"of the header {TOKEN_HEADER}")
    thumb: Literal["up", "down"] | None = None
    score: float | None = Field(None, ge=0, le=1, strict=True)
    correction: Text | None = None
    comment: Text | None = None
    source: str | None = Field(
        None, pattern=r"^[^\x00]{1,100}$", description="who says it; only with the admin token"
    )

    @model_validator(mode="after")
    def _says_something(self) -> "FeedbackBody":
        if self.thumb is not None and self.score is not None:
            raise ValueError("give a thumb or a score, not both")
        if self.value is None and self.correction is None and self.comment is None:
            raise ValueError("give a thumb, a score, a correction or a comment")
        return self

    @property
    def value(self) -> float | None:
        """Satisfaction, 0..1; None if only texts were given."""
        if self.thumb is not None:
            return float(self.thumb == "up")
        return None if self.score is None else float(self.score)


def feedback_token(salt: str, decision_id: str) -> str:
    """Return the token of a decision; without the salt nobody can make one."""
    key = bytes.fromhex(salt)
    return hashlib.blake2b(
        decision_id.encode(), digest_size=16, key=key, person=b"feedback"
    ).hexdigest()


def token_problem(salt: str, decision_id: str, token: str | None) -> str | None:
    """Return why a token does not allow feedback on a decision; None if it does."""
    if token is None:
        return f"token: give that of the answer's header {TOKEN_HEADER}"
    if not hmac.compare_digest(feedback_token(salt, decision_id).encode(), token.encode()):
        return "token: it is not that of this decision"
    decided = int(decision_id[:_TIME_DIGITS], 16) / 1000
    if time.time() - decided > TOKEN_SECONDS:
        return f"token: it was valid for {TOKEN_SECONDS / 86400:.0f} days"
    return None
