"""The plan of how one request is forwarded, and the reasons not to steer it."""

from dataclasses import dataclass, field
from typing import Any

from serving.ledger.record import Record
from serving.quality.sampling.sample import Draft


class NotSteeredError(Exception):
    """The request must not be steered; the argument is the reason."""


class FailedOpenError(Exception):
    """No decision could be made; the argument is the reason."""


@dataclass(slots=True)
class Plan:
    """Decision on how one request is forwarded.

    Attributes:
        record: the request's record, completed at its end.
        started: `time.perf_counter()` at the request's arrival.
        steered: the body to send; None sends the original body.
        decided: whether a policy or a rule chose the directive that the answer is made under.
        usage_added: whether the body asks for a usage chunk that the client did not ask for.
        trace_parent: the caller's span (https://www.w3.org/TR/trace-context/); None if unknown.
        directed: whether the steered body has a directive's text or token cap.
        sample: the request as a part of the sample whose answers are judged; None if it is not.
        cap: the directive's cap on the answer's tokens; None if it has none.
        finished: whether the outcome is recorded.
    """

    record: Record
    started: float
    steered: dict[str, Any] | None = None
    decided: bool = False
    usage_added: bool = False
    trace_parent: str | None = None
    directed: bool = False
    sample: Draft | None = None
    cap: int | None = None
    finished: bool = field(default=False, repr=False)

    @property
    def changes(self) -> list[str]:
        """The parts that the steered body adds, as `serving.hook.refusals` names them."""
        added = (("directive", self.directed), ("usage", self.usage_added))
        return [part for part, is_added in added if is_added]
