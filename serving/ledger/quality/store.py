"""The verdicts and the guard's state in the ledger's database."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa

from serving.ledger.database import Ledger
from serving.ledger.quality.feedback import Feedback
from serving.ledger.quality.verdict import Verdict
from serving.ledger.tables import FEEDBACK, GUARD_CELLS, GUARD_LOG, REQUESTS, VERDICTS

_GUARD_LOCK = 5078
# How long an opinion waits for the record of its decision, s.
_PATIENCE_SECONDS = 3600.0
VERDICT_COLUMNS = [VERDICTS.c[field.name] for field in fields(Verdict)]


class GuardTransaction:
    """One step of the guard: no other replica takes one at the same time.

    Args:
        connection: of an open transaction.
        ledger: the database.
    """

    def __init__(self, connection: sa.Connection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger

    def take(self, limit: int) -> list[Verdict]:
        """Return verdicts that are not counted yet, by time of decision, and mark them."""
        query = (
            sa.select(*VERDICT_COLUMNS)
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
        known = sa.exists().where(REQUESTS.c.decision_id == FEEDBACK.c.decision_id)
        with self._ledger.transaction() as connection:
            connection.execute(sa.delete(VERDICTS).where(VERDICTS.c.decided < before))
            return int(connection.execute(sa.delete(FEEDBACK).where(late, ~known)).rowcount)
