"""The facts about an answer that the ledger records."""

import time
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer.

    Attributes:
        prompt_tokens: tokens of the prompt; None if unknown.
        completion_tokens: tokens of the answer; None if unknown.
        method: "reported" by the upstream, or "counted" from the stream's events; None if
            `completion_tokens` is unknown.
    """

    prompt_tokens: int | None
    completion_tokens: int | None
    method: str | None


class AnswerOutcome(Protocol):
    """The facts about an answer that the ledger records, from any observer.

    Attributes:
        status: HTTP status of the upstream; 0 if it did not answer.
        seconds_first: s from the request's arrival to the answer's first piece; None if there
            was none.
    """

    status: int
    seconds_first: float | None

    @property
    def usage(self) -> Usage:
        """Token counts."""

    @property
    def model(self) -> str | None:
        """Model that the answer names; None if it names none."""

    @property
    def fingerprint(self) -> str | None:
        """The answer's `system_fingerprint`; None if it has none."""

    @property
    def cut_off(self) -> bool:
        """True if the answer says that it reached a cap on its tokens."""

    @property
    def text(self) -> str | None:
        """The answer's text; None if it was not kept."""


@dataclass(slots=True)
class ReportedAnswer:
    """An answer that the hook does not see itself: its caller fills in the fields.

    Attributes:
        started: `time.perf_counter()` at the request's arrival.
    """

    started: float
    status: int = 0
    seconds_first: float | None = None
    usage: Usage = Usage(None, None, None)
    model: str | None = None
    fingerprint: str | None = None
    text: str | None = None
    cut_off: bool = False

    def piece(self) -> None:
        """Note the arrival of a piece, to time the first one."""
        if self.seconds_first is None:
            self.seconds_first = time.perf_counter() - self.started
