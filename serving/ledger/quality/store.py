"""The verdicts and the guard's state in the ledger's database."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import sqlalchemy as sa

from serving.ledger.database import Ledger
from serving.ledger.quality.feedback import Feedback
from serving.ledger.quality.verdict import CONTROL, Verdict
from serving.ledger.record import EVALUATION
from serving.ledger.tables import FEEDBACK, GUARD_CELLS, GUARD_LOG, REQUESTS, VERDICTS

_GUARD_LOCK = 5078
_MOST_LENGTHS = 10_000
# How long an opinion waits for the record of its decision, s.
_PATIENCE_SECONDS = 3600.0
_COLUMNS = [VERDICTS.c[field.name] for field in fields(Verdict)]


class Energy(NamedTuple):
    """Energy and emissions of some requests.

    Attributes:
        requests: number of requests.
        joules: energy, J.
        grams: emissions, gCO2e.
        unknown: requests whose energy is unknown.
    """

    requests: int
    joules: float
    grams: float
    unknown: int


class Judging(NamedTuple):
    """Energy and emissions of judging.

    Attributes:
        answers: answers that were made only to compare with.
        joules: energy of these answers, and of the judges as far as it is known, J.
        grams: their emissions, gCO2e.
        unknown: answers and verdicts whose energy is unknown.
    """

    answers: int
    joules: float
    grams: float
    unknown: int


class Tally(NamedTuple):
    """A verdict, and how often (`verdicts`) it was given within one `hour`; see `Verdict`."""

    hour: int
    arm: str
    result: str
    quality: float | None
    l0_quality: float | None
    probability: float
    floor: float | None
    verdicts: int


class JudgeTally(NamedTuple):
    """One result of one judge, how often it was given, and what that took.

    Attributes:
        judge, rubric, result: see `Verdict`.
        verdicts: how often it was given.
        tokens: judge's tokens; None if all are unknown.
        seconds: judge's time, s.
        joules: judge's energy, J; None if all are unknown.
        unknown_joules: verdicts whose energy is unknown.
        seen_twice: verdicts of a judge that saw the answers in both orders.
        consistent: those of them with the same verdict in both.
    """

    judge: str
    rubric: str | None
    result: str
    verdicts: int
    tokens: int | None
    seconds: float
    joules: float | None
    unknown_joules: int
    seen_twice: int
    consistent: int


class GuardTransaction:
    """One step of the guard: no other replica takes one at the same time.

    Args:
        connection: of an open transaction.
        insert: see `Ledger.insert`.
    """

    def __init__(self, connection: sa.Connection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger

    def take(self, limit: int) -> list[Verdict]:
        """Return verdicts that are not counted yet, by time of decision, and mark them."""
        query = (
            sa.select(*_COLUMNS)
            .where(VERDICTS.c.heeded, ~VERDICTS.c.counted)
            .order_by(VERDICTS.c.decided, VERDICTS.c.verdict_id)
            .limit(limit)
        )
        verdicts = [Verdict(*row) for row in self._connection.execute(query)]
        ids = [verdict.verdict_id for verdict in verdicts]
        counted = sa.update(VERDICTS).where(VERDICTS.c.verdict_id.in_(ids)).values(counted=True)
        self._connection.execute(counted)
        return verdicts

    def cells(self) -> dict[str, str]:
        """Return the state of each cell."""
        rows = self._connection.execute(sa.select(GUARD_CELLS.c.cell, GUARD_CELLS.c.state))
        return {row.cell: row.state for row in rows}

    def put(self, cell: str, state: str) -> None:
        """Store the state of a cell."""
        row = {"cell": cell, "state": state}
        upsert = self._ledger.insert(GUARD_CELLS).values(row)
        self._connection.execute(
            upsert.on_conflict_do_update(index_elements=["cell"], set_={"state": state})
        )

    def note(self, event_id: str, at: float, event: Mapping[str, Any]) -> None:
        """Add an event to the guard's history; `at` in Unix seconds."""
        row = {"event_id": event_id, "time": at, "event": json.dumps(event), "told": False}
        self._connection.execute(sa.insert(GUARD_LOG).values(row))


class QualityStore:
    """Access to the verdicts and the guard's state; all methods raise LedgerError."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @contextmanager
    def guard(self) -> Iterator[GuardTransaction]:
        """Yield a transaction that no other replica's guard runs beside."""
        with self._ledger.transaction(_GUARD_LOCK) as connection:
            yield GuardTransaction(connection, self._ledger)

    def pending(self) -> bool:
        """Return whether there are verdicts that the guard has not counted."""
        v = VERDICTS.c
        query = sa.select(v.verdict_id).where(v.heeded, ~v.counted).limit(1)
        with self._ledger.transaction() as connection:
            return connection.execute(query).first() is not None

    def cells(self) -> dict[str, str]:
        """Return the guard's state of each cell."""
        with self._ledger.transaction() as connection:
            return GuardTransaction(connection, self._ledger).cells()

    def tallies(
        self, cell: tuple[str, str, str], version: str, after: float, until: float
    ) -> list["Tally"]:
        """Return how often each verdict was given that the guard heeds, hour by hour.

        Args:
            cell: model, task and zone.
            version: of the policy bundle.
            after, until: the decisions' period, Unix seconds, without its start.
        """
        v = VERDICTS.c
        # Written out, because PostgreSQL takes two parameters for two expressions.
        hour = sa.cast(sa.literal_column("decided / 3600.0"), sa.BigInteger)
        names = (v.arm, v.result, v.quality, v.l0_quality, v.probability, v.floor)
        query = (
            sa.select(hour, *names, sa.func.count())
            .where(v.model == cell[0], v.task == cell[1], v.zone == cell[2])
            .where(v.policy_version == version, v.heeded, v.decided > after, v.decided < until)
            .group_by(hour, *names)
            .order_by(hour, *names)
        )
        with self._ledger.transaction() as connection:
            return [Tally(*row) for row in connection.execute(query)]

    def cells_judged(self, since: float, until: float) -> set[tuple[str, str, str]]:
        """Return model, task and zone of each cell with a verdict on a decision of a period."""
        v = VERDICTS.c
        query = sa.select(v.model, v.task, v.zone).distinct()
        query = query.where(v.decided >= since, v.decided < until)
        with self._ledger.transaction() as connection:
            return {(row.model, row.task, row.zone) for row in connection.execute(query)}

    def judges(self, since: float, until: float) -> list["JudgeTally"]:
        """Return by judge, rubric and result how many verdicts there are, and what they took."""
        v = VERDICTS.c
        names = (v.judge, v.rubric, v.result)
        sums = (v.judge_tokens, v.judge_seconds, v.judge_joules)
        unknown = sa.func.sum(sa.case((v.judge_joules.is_(None), 1), else_=0))
        seen_twice = sa.func.count(v.consistent)
        same = sa.func.sum(sa.case((v.consistent, 1), else_=0))
        query = (
            sa.select(
                *names, sa.func.count(), *(sa.func.sum(c) for c in sums), unknown, seen_twice, same
            )
            .where(v.decided >= since, v.decided < until, v.arm != CONTROL)
            .group_by(*names)
            .order_by(*names)
        )
        with self._ledger.transaction() as connection:
            rows = connection.execute(query).all()
        # PostgreSQL's sum of big integers is a decimal number.
        tallies = [JudgeTally(*row) for row in rows]
        return [each._replace(tokens=each.tokens and int(each.tokens)) for each in tallies]

    def with_lengths(self, since: float, until: float) -> list[Verdict]:
        """Return the last verdicts whose answers' lengths are known, of a period's decisions."""
        v = VERDICTS.c
        query = sa.select(*_COLUMNS).where(v.decided >= since, v.decided < until)
        query = query.where(v.tokens.is_not(None), v.l0_tokens.is_not(None))
        query = query.order_by(v.decided.desc()).limit(_MOST_LENGTHS)
        with self._ledger.transaction() as connection:
            return [Verdict(*row) for row in connection.execute(query)]

    def controls(self, since: float) -> list[tuple[str, str | None, str, int]]:
        """Return judge, rubric, result and number of the verdicts on pairs of known quality."""
        v = VERDICTS.c
        names = (v.judge, v.rubric, v.result)
        query = sa.select(*names, sa.func.count()).group_by(*names)
        query = query.where(v.arm == CONTROL, v.decided >= since)
        with self._ledger.transaction() as connection:
            return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]

    def also_judged_by(self, prefix: str, since: float) -> list[Verdict]:
        """Return all verdicts on the answers that some judges have judged, oldest first.

        Args:
            prefix: beginning of these judges' names.
            since: time of the first decision, Unix seconds.
        """
        ids = sa.select(VERDICTS.c.decision_id).where(
            VERDICTS.c.judge.startswith(prefix, autoescape=True), VERDICTS.c.decided >= since
        )
        query = sa.select(*_COLUMNS).where(VERDICTS.c.decision_id.in_(ids))
        query = query.order_by(VERDICTS.c.decided, VERDICTS.c.time)
        with self._ledger.transaction() as connection:
            return [Verdict(*row) for row in connection.execute(query)]

    def add_verdict(self, verdict: Verdict) -> None:
        """Insert a verdict, or put it in the place of the same judge's earlier one."""
        self._upsert(VERDICTS, "verdict_id", verdict)

    def add_feedback(self, rows: Iterable[Feedback]) -> None:
        """Insert opinions, or put each in the place of its source's earlier one."""
        for row in rows:
            self._upsert(FEEDBACK, "feedback_id", row)

    def feedback(self, since: float = 0.0) -> list[Feedback]:
        """Return the opinions since a time, Unix seconds."""
        query = sa.select(FEEDBACK).where(FEEDBACK.c.time >= since).order_by(FEEDBACK.c.time)
        with self._ledger.transaction() as connection:
            return [Feedback(*row) for row in connection.execute(query)]

    def _upsert(self, table: sa.Table, key: str, row: Verdict | Feedback) -> None:
        values = asdict(row)
        newer = {name: value for name, value in values.items() if name not in (key, "counted")}
        upsert = self._ledger.insert(table).values(values)
        upsert = upsert.on_conflict_do_update(
            index_elements=[key], set_=newer, where=table.c.time <= row.time
        )
        with self._ledger.transaction() as connection:
            connection.execute(upsert)

    def events(self, *, untold: bool = False, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the guard's history, oldest first, each event with its `event_id` and `time`.

        Args:
            untold: only events that no webhook has taken yet.
            since: time of the earliest one, Unix seconds.
        """
        query = sa.select(GUARD_LOG).where(GUARD_LOG.c.time >= since).order_by(GUARD_LOG.c.event_id)
        if untold:
            query = query.where(~GUARD_LOG.c.told)
        with self._ledger.transaction() as connection:
            rows = connection.execute(query).all()
        return [
            json.loads(row.event) | {"event_id": row.event_id, "time": row.time} for row in rows
        ]

    def energy(self, since: float, until: float) -> dict[bool, "Energy"]:
        """Return the energy of the requests of a period: of users, and (True) made to judge."""
        r = REQUESTS.c
        unknown = sa.func.sum(sa.case((r.energy_joules.is_(None), 1), else_=0))
        sums = sa.func.sum(r.energy_joules), sa.func.sum(r.grams), unknown
        of_period = sa.select(sa.func.count(), *sums).where(r.time >= since, r.time < until)
        energies = {}
        with self._ledger.transaction() as connection:
            for made in (False, True):
                query = of_period.where(r.reason == EVALUATION if made else r.reason != EVALUATION)
                count, joules, grams, missing = connection.execute(query).one()
                energies[made] = Energy(count, joules or 0.0, grams or 0.0, missing or 0)
        return energies

    def judging(self, since: float, until: float) -> Judging:
        """Return what judging took in a period, by the records of its answers; Unix seconds."""
        made, v = self.energy(since, until)[True], VERDICTS.c
        query = sa.select(
            sa.func.sum(v.judge_joules),
            sa.func.sum(v.evaluation_grams),
            sa.func.sum(v.evaluation_joules),
            sa.func.sum(sa.case((v.judge_joules.is_(None), 1), else_=0)),
        ).where(v.decided >= since, v.decided < until)
        with self._ledger.transaction() as connection:
            own, grams, answers, unknown = connection.execute(query).one()
        # A verdict's emissions are those of its answers and its judge, so the judge's part follows
        # from its share of the joules. The answers' own come from their records, as measured.
        estimated = (own or 0.0) + (answers or 0.0)
        judges = (grams or 0.0) * (own or 0.0) / estimated if estimated else 0.0
        return Judging(
            made.requests,
            made.joules + (own or 0.0),
            made.grams + judges,
            made.unknown + (unknown or 0),
        )

    def told(self, event_ids: Sequence[str]) -> None:
        """Note that a webhook has taken some events."""
        with self._ledger.transaction() as connection:
            condition = GUARD_LOG.c.event_id.in_(event_ids)
            connection.execute(sa.update(GUARD_LOG).where(condition).values(told=True))

    def expire(self, before: float) -> int:
        """Delete what is known of requests that were decided before a time, Unix seconds.

        Returns:
            the number of opinions that were deleted because the ledger does not know their
            decision, an hour after they came.
        """
        late = FEEDBACK.c.time < time.time() - _PATIENCE_SECONDS
        unknown = FEEDBACK.c.decision_id.not_in(sa.select(REQUESTS.c.decision_id))
        with self._ledger.transaction() as connection:
            connection.execute(sa.delete(VERDICTS).where(VERDICTS.c.decided < before))
            return int(connection.execute(sa.delete(FEEDBACK).where(late, unknown)).rowcount)
