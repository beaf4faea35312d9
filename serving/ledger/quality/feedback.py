"""A person's opinion of an answer."""

from dataclasses import dataclass


@dataclass(slots=True)
class Feedback:
    """One source's opinion of one answer; a row of the ledger. A later one takes its place.

    Attributes:
        feedback_id: made of the decision and the source.
        decision_id: id of the request's decision.
        time: when it was given, Unix seconds.
        source: "user", for whoever holds the answer's token, or the name that came with the admin
            token.
        value: satisfaction, 0 (thumb down) to 1 (thumb up); None if only texts were given.
        correction: the answer as it should have been; None if none was given.
        comment: None if none was given.
    """

    feedback_id: str
    decision_id: str
    time: float
    source: str
    value: float | None
    correction: str | None
    comment: str | None
