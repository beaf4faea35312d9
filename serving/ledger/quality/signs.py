"""Signs of satisfaction after an answer, read from the ledger's requests and feedback."""

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from serving.ledger.database import Ledger
from serving.ledger.quality.verdict import BETTER, SAME, TIE, WORSE
from serving.ledger.tables import FEEDBACK, REQUESTS, VERDICTS

# In a conversation: any later turn; the same question again; a wish for more; the same request sent
# again; an answer that our directive's cap cut off; a client that left in mid-answer; a thumb down.
SIGNS = (*("follow_up", "repeat", "more", "regenerated", "cut_off", "client_left", "disliked"),)
_STEERING_MODES = ("on", "canary")
_CREDIT = {BETTER: 1.0, TIE: 0.5, WORSE: 0.0}
_MOST_JUDGED = 20_000
# Decisions that are looked up in one query.
_AT_ONCE = 500


@dataclass(frozen=True)
class SignCounts:
    """Signs in the conversations of one task in one arm.

    Attributes:
        task: task of the conversations; empty if they have none.
        held_out: whether they were held out.
        draws: number of draws.
        signs: by sign, the draws in which it occurred.
    """

    task: str
    held_out: bool
    draws: int
    signs: dict[str, int]

    @classmethod
    def none(cls, task: str, held_out: bool) -> "SignCounts":
        """Return the counts of an arm without conversations."""
        return cls(task, held_out, 0, dict.fromkeys(SIGNS, 0))


@dataclass
class Judged:
    """A judged answer, and how its reader reacted.

    Attributes:
        judge, task, arm: of the verdict.
        credit: 1 for an answer that is better than L0's, 1/2 for a tie, 0 for a worse one.
        reactions: satisfaction by its sign, 0..1: "feedback" is what the reader said; "stayed" is 1
            unless the client left in mid-answer; "content" is 1 unless the reader's next turn asked
            the same again or for more, and is known only if there was a next turn.
    """

    judge: str
    task: str
    arm: str
    credit: float
    reactions: dict[str, float] = field(default_factory=dict)


class SignStore:
    """Reads the signs; all methods raise LedgerError."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def counts(self, since: float, until: float) -> list[SignCounts]:
        """Return the signs in the conversations of a period, by task and arm; times in Unix s."""
        r = REQUESTS.c
        lasting = sa.and_(r.lottery, r.mode.in_(_STEERING_MODES), r.time >= since, r.time < until)
        # Lengths of a conversation's requests grow, so an equal one is the same request. Where a
        # conversation is known by its first message only, it may be another person's.
        named = r.keyed_by.in_(("conversation", "user"))
        again = (
            sa.select(r.conversation.label("draw"))
            .where(lasting, named)
            .group_by(r.conversation, r.characters, r.opening)
            .having(sa.func.count() > 1)
            .distinct()
            .subquery()
        )
        disliked = (
            sa.select(r.conversation.label("draw"))
            .join(FEEDBACK, FEEDBACK.c.decision_id == r.decision_id)
            .where(lasting, FEEDBACK.c.value < 0.5)
            .distinct()
            .subquery()
        )

        def ever(condition: Any) -> Any:
            return sa.func.max(sa.case((condition, 1), else_=0))

        draws = (
            sa.select(
                r.conversation.label("draw"),
                sa.func.coalesce(sa.func.min(r.task), "").label("task"),
                ever(r.hold_out).label("held_out"),
                ever(r.follow_up.is_not(None)).label("follow_up"),
                ever(r.follow_up == "repeat").label("repeat"),
                ever(r.follow_up == "more").label("more"),
                ever(r.cut_off == "directive").label("cut_off"),
                ever(r.outcome == "client_left").label("client_left"),
            )
            .where(lasting)
            .group_by(r.conversation)
            .subquery()
        )
        flags = {
            name: draws.c[name] for name in SIGNS if name not in ("regenerated", "disliked")
        } | {
            "regenerated": sa.case((again.c.draw.is_not(None), 1), else_=0),
            "disliked": sa.case((disliked.c.draw.is_not(None), 1), else_=0),
        }
        query = (
            sa.select(
                draws.c.task,
                draws.c.held_out,
                sa.func.count(),
                *(sa.func.sum(flags[name]) for name in SIGNS),
            )
            .select_from(
                draws.outerjoin(again, again.c.draw == draws.c.draw).outerjoin(
                    disliked, disliked.c.draw == draws.c.draw
                )
            )
            .group_by(draws.c.task, draws.c.held_out)
        )
        with self._ledger.transaction() as connection:
            return [
                SignCounts(task, bool(arm), count, dict(zip(SIGNS, map(int, sums), strict=True)))
                for task, arm, count, *sums in connection.execute(query)
            ]

    def judged(self, since: float, until: float) -> list[Judged]:
        """Return the last judged answers of a period, each with its reader's reactions."""
        v, r = VERDICTS.c, REQUESTS.c
        query = (
            sa.select(
                v.judge,
                v.task,
                v.arm,
                v.result,
                r.conversation,
                r.time,
                r.outcome,
                FEEDBACK.c.value,
            )
            .select_from(
                VERDICTS.join(REQUESTS, r.decision_id == v.decision_id).outerjoin(
                    FEEDBACK, FEEDBACK.c.decision_id == v.decision_id
                )
            )
            .where(v.decided >= since, v.decided < until, v.result.in_(_CREDIT), v.judge != SAME)
            .order_by(v.decided.desc())
            .limit(_MOST_JUDGED)
        )
        judged: list[Judged] = []
        with self._ledger.transaction() as connection:
            rows = connection.execute(query).all()
            later = self._later_turns(connection, sorted({row.conversation for row in rows}))
        for row in rows:
            each = Judged(row.judge, row.task, row.arm, _CREDIT[row.result])
            each.reactions["stayed"] = float(row.outcome != "client_left")
            if row.value is not None:
                each.reactions["feedback"] = row.value
            following = [turn for turn in later.get(row.conversation, ()) if turn[0] > row.time]
            if following:
                each.reactions["content"] = float(following[0][1] == "other")
            judged.append(each)
        return judged

    def _later_turns(
        self, connection: sa.Connection, draws: list[str]
    ) -> dict[str, list[tuple[float, str]]]:
        """Return time and kind of the later turns of some conversations, oldest first."""
        r = REQUESTS.c
        turns: dict[str, list[tuple[float, str]]] = {}
        for start in range(0, len(draws), _AT_ONCE):
            query = (
                sa.select(r.conversation, r.time, r.follow_up)
                .where(r.conversation.in_(draws[start : start + _AT_ONCE]))
                .where(r.follow_up.is_not(None))
                .order_by(r.time)
            )
            for draw, time, kind in connection.execute(query):
                turns.setdefault(draw, []).append((time, kind))
        return turns
