"""The verdicts and the guard's state in the ledger's database."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import sqlalchemy as sa

from serving.ledger.database import Ledger
from serving.ledger.quality.verdict import Verdict
from serving.ledger.record import EVALUATION
from serving.ledger.tables import GUARD_CELLS, GUARD_LOG, REQUESTS, VERDICTS

_GUARD_LOCK = 5078
_COLUMNS = [VERDICTS.c[field.name] for field in fields(Verdict)]


class Energy(NamedTuple):
    """What requests took.

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

    def note(self, event_id: str, time: float, event: Mapping[str, Any]) -> None:
        """Add an event to the guard's history."""
        row = {"event_id": event_id, "time": time, "event": json.dumps(event), "told": False}
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

    def cells(self) -> dict[str, str]:
        """Return the guard's state of each cell."""
        with self._ledger.transaction() as connection:
            return GuardTransaction(connection, self._ledger).cells()

    def verdicts(self, since: float = 0.0, until: float | None = None) -> Iterator[Verdict]:
        """Yield the verdicts on requests that were decided in a period, oldest first.

        Args:
            since: start of the period, Unix seconds.
            until: its end, exclusive; None for no end.
        """
        query = sa.select(*_COLUMNS).where(VERDICTS.c.decided >= since)
        if until is not None:
            query = query.where(VERDICTS.c.decided < until)
        query = query.order_by(VERDICTS.c.decided, VERDICTS.c.verdict_id)
        with self._ledger.transaction() as connection:
            for row in connection.execution_options(yield_per=1000).execute(query):
                yield Verdict(*row)

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
        made = REQUESTS.c.reason == EVALUATION
        unknown = sa.func.sum(sa.case((REQUESTS.c.energy_joules.is_(None), 1), else_=0))
        joules, grams = (sa.func.sum(REQUESTS.c[name]) for name in ("energy_joules", "grams"))
        query = (
            sa.select(made, sa.func.count(), joules, grams, unknown)
            .where(REQUESTS.c.time >= since, REQUESTS.c.time < until)
            .group_by(made)
        )
        with self._ledger.transaction() as connection:
            rows = connection.execute(query).all()
        known = {bool(row[0]): Energy(row[1], row[2] or 0.0, row[3] or 0.0, row[4]) for row in rows}
        return {key: known.get(key, Energy(0, 0.0, 0.0, 0)) for key in (False, True)}

    def told(self, event_ids: Sequence[str]) -> None:
        """Note that a webhook has taken some events."""
        with self._ledger.transaction() as connection:
            condition = GUARD_LOG.c.event_id.in_(event_ids)
            connection.execute(sa.update(GUARD_LOG).where(condition).values(told=True))

    def expire(self, before: float) -> None:
        """Delete the verdicts on requests that were decided before a time, Unix seconds."""
        with self._ledger.transaction() as connection:
            connection.execute(sa.delete(VERDICTS).where(VERDICTS.c.decided < before))
