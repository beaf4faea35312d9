"""The ledger's database: one row per request, and the operators' run-time settings.

SQLite or PostgreSQL through SQLAlchemy. Alembic versions the schema
(`serving/ledger/migrations`). No request waits for the database.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from envs.errors import ConfigError, LedgerError
from serving.ledger.quality.verdict import Verdict
from serving.ledger.record import Amendment, Record
from serving.ledger.replica import Replica
from serving.ledger.tables import CONTROL, FEEDBACK, POLICIES, REPLICAS, REQUESTS, VERDICTS
from serving.settings.control import SETTABLE, Control
from serving.settings.kill_switch import KillState

_AMENDABLE = frozenset(column.name for column in REQUESTS.columns) - {"decision_id"}
# The table of each kind of row, and a function that returns a row's values in column order.
_TABLES: dict[type, tuple[sa.Table, Callable[[Any], Any]]] = {
    kind: (table, attrgetter(*(column.name for column in table.columns)))
    for kind, table in ((Record, REQUESTS), (Verdict, VERDICTS))
}
# Arguments of a connection: longest waits for the server, and for a network that hangs.
_LIMITS: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 2},
    "postgresql": {"connect_timeout": 2, "tcp_user_timeout": 10_000},
}
# Fields of a manifest that name the prompts of the training.
_PROMPTS = ("data", "live")
_MIGRATION_LOCK = 5077
# A replica that has been away for this long is forgotten, s.
FORGET_SECONDS = 86400.0


class Ledger:
    """Access to one ledger database.

    Args:
        url: SQLAlchemy URL, e.g. sqlite:///file.db or postgresql+psycopg://user@host/db.

    Attributes:
        shown: the URL without its password, for messages.

    Raises:
        ConfigError: the URL is invalid or names an unsupported database. The message does not
            contain the password.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            kind = parsed.get_backend_name()
            if kind not in _LIMITS:
                raise ValueError(kind)
            self._engine = sa.create_engine(
                parsed,
                connect_args=_LIMITS[kind],
                # Parameters hold the lottery's salt, tenants and prompts.
                hide_parameters=True,
                pool_pre_ping=kind != "sqlite",
                paramstyle="qmark" if kind == "sqlite" else "format",
            )
        except (sa.exc.ArgumentError, ValueError, ModuleNotFoundError) as error:
            raise ConfigError(
                "--ledger: give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
            ) from error
        self._kind = kind
        # Compiled once: an insert then takes a fifth of the time of SQLAlchemy's expression.
        self._inserts = {
            rows: str(self.insert(table).on_conflict_do_nothing().compile(self._engine))
            for rows, (table, _) in _TABLES.items()
        }
        self.shown = parsed.render_as_string(hide_password=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the database's errors into one line without parameters."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, alembic.util.CommandError) as error:
            cause = getattr(error, "orig", None) or error
            first_line = (str(cause).strip().splitlines() or [""])[0]
            raise LedgerError(
                f"the ledger {self.shown} cannot be used: {type(cause).__name__}: {first_line}"
            ) from None

    @contextmanager
    def transaction(self, lock: int | None = None) -> Iterator[sa.Connection]:
        """Yield a connection whose changes are made together at the end, or not at all.

        Args:
            lock: number of a lock that one transaction of all replicas holds at a time; None for
                none. SQLite has a single one.
        """
        with self._errors(), self._engine.begin() as connection:
            if lock is not None:
                locking = f"SELECT pg_advisory_xact_lock({lock:d})"
                locking = locking if self._kind == "postgresql" else "BEGIN IMMEDIATE"
                connection.execute(sa.text(locking))
            yield connection

    def insert(self, table: sa.Table) -> "postgresql.Insert | sqlite.Insert":
        """Return an insert into a table that can be told what to do about a conflict."""
        return (postgresql.insert if self._kind == "postgresql" else sqlite.insert)(table)

    def migrate(self) -> None:
        """Upgrade the schema to the current version; safe if several replicas do so at once.

        Raises:
            LedgerError: as all methods.
        """
        config = alembic.config.Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        # The lock admits one replica at a time; the transaction makes the upgrade atomic.
        with self.transaction(_MIGRATION_LOCK) as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
        if self._kind == "sqlite":
            # In WAL mode readers do not block the writer. If the database is locked, another
            # replica is switching the mode.
            with (
                self._errors(),
                suppress(sa.exc.OperationalError),
                self._engine.connect() as connection,
            ):
                if connection.execute(sa.text("PRAGMA journal_mode")).scalar() != "wal":
                    connection.execute(sa.text("PRAGMA journal_mode=WAL"))

    def add(self, rows: Sequence[Record] | Sequence[Verdict]) -> None:
        """Insert rows of one kind; a row that is already in the database stays unchanged."""
        insert, values = self._inserts[type(rows[0])], _TABLES[type(rows[0])][1]
        with self.transaction() as connection:
            connection.exec_driver_sql(insert, [values(row) for row in rows])

    def amend(self, amendments: Iterable[Amendment]) -> list[Amendment]:
        """Update records; return the amendments whose record is not in the database yet."""
        missing = []
        with self.transaction() as connection:
            for amendment in amendments:
                changes = {k: v for k, v in amendment.changes.items() if k in _AMENDABLE}
                same_decision = REQUESTS.c.decision_id == amendment.decision_id
                statement = sa.update(REQUESTS).where(same_decision).values(**changes)
                if not connection.execute(statement).rowcount:
                    missing.append(amendment)
        return missing

    def rows(
        self, names: Sequence[str], since: float = 0.0, until: float | None = None
    ) -> Iterator[Sequence[Any]]:
        """Yield the named columns of records, oldest first.

        Args:
            names: columns to select.
            since: earliest arrival, Unix seconds.
            until: end of the arrivals, Unix seconds, exclusive. None means no end.
        """
        columns = [REQUESTS.c[name] for name in names]
        query = sa.select(*columns).where(REQUESTS.c.time >= since).order_by(REQUESTS.c.time)
        if until is not None:
            query = query.where(REQUESTS.c.time < until)
        with self._errors(), self._engine.connect() as connection:
            yield from connection.execution_options(yield_per=1000).execute(query)

    def names(self, column: str, since: float) -> set[str]:
        """Return the values of a column of texts in the records since a time, Unix seconds."""
        values = REQUESTS.c[column]
        query = sa.select(values).where(REQUESTS.c.time >= since, values.is_not(None)).distinct()
        with self._errors(), self._engine.connect() as connection:
            return {str(value) for (value,) in connection.execute(query)}

    def find(self, decision_id: str) -> dict[str, Any] | None:
        """Return one record as a dictionary by column name, or None if there is no such record."""
        query = sa.select(REQUESTS).where(REQUESTS.c.decision_id == decision_id)
        with self._errors(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        # SQLAlchemy's column names are a subclass of str that some JSON encoders reject.
        return {str(name): value for name, value in row.items()} if row is not None else None

    def delete(
        self,
        *,
        before: float | None = None,
        decision_id: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Delete the records that meet all given conditions, and what is known of their answers.

        Returns:
            the number of records.

        Args:
            before: delete records that arrived before this time, Unix seconds.
            decision_id: delete the record of this decision.
            tenant: delete the records of this tenant.

        Raises:
            ValueError: no condition was given.
        """
        conditions = []
        if before is not None:
            conditions.append(REQUESTS.c.time < before)
        if decision_id is not None:
            conditions.append(REQUESTS.c.decision_id == decision_id)
        if tenant is not None:
            conditions.append(REQUESTS.c.tenant == tenant)
        if not conditions:
            raise ValueError("nothing named to delete; give before, decision_id or tenant")
        deleted = sa.select(REQUESTS.c.decision_id).where(*conditions)
        with self.transaction() as connection:
            for table in (VERDICTS, FEEDBACK):
                connection.execute(sa.delete(table).where(table.c.decision_id.in_(deleted)))
            return int(connection.execute(sa.delete(REQUESTS).where(*conditions)).rowcount)

    def control(self, initial: Control | None = None, *, renew: bool = False) -> Control:
        """Return the operators' settings.

        Args:
            initial: settings to store first if the database has none.
            renew: store them too if nothing has served with those of the database yet: they are of
                a start that was refused.

        Raises:
            ConfigError: the database has no settings and `initial` is None.
        """
        if initial is not None:
            insert = self.insert(CONTROL)
            row = {"id": 1, "revision": 0, "setting": initial.model_dump_json()}
            with self.transaction() as connection:
                connection.execute(insert.on_conflict_do_nothing(), row)
            # The kill switch stays as it is.
            if renew and not self.control().started:
                given = initial.model_dump(include={*SETTABLE, "salt"})
                return self._change(lambda current: given)
        with self._errors(), self._engine.connect() as connection:
            setting = connection.execute(sa.select(CONTROL.c.setting)).scalar()
        if setting is None:
            raise ConfigError(
                f"{self.shown}: no hook has used this ledger yet; start `sprout serve` with it"
            )
        return Control.from_json(setting)

    def merge_kill(self, state: KillState) -> Control:
        """Add what is known about the kill switch; return the settings."""
        return self._change(lambda current: {"kill": current.kill.merged(state)})

    def set_control(self, **changes: Any) -> Control:
        """Change the operators' settings for all replicas; return the new settings."""
        return self._change(lambda current: changes)

    def _change(self, changes: Callable[[Control], Mapping[str, Any]]) -> Control:
        while True:
            current = self.control()
            new = Control.model_validate(
                {**current.model_dump(), **changes(current), "revision": current.revision + 1}
            )
            statement = sa.update(CONTROL).where(CONTROL.c.revision == current.revision)
            values = {"revision": new.revision, "setting": new.model_dump_json()}
            with self.transaction() as connection:
                # No row is updated if another replica changed the settings in the meantime.
                if connection.execute(statement.values(**values)).rowcount:
                    return new

    def keep_policy(self, version: str, manifest: Mapping[str, Any]) -> None:
        """Store the manifest of a policy that decides requests."""
        kept = {name: value for name, value in manifest.items() if name not in _PROMPTS}
        insert = self.insert(POLICIES)
        row = {"version": version, "manifest": json.dumps(kept)}
        with self.transaction() as connection:
            connection.execute(insert.on_conflict_do_nothing(), row)

    def policies(self) -> dict[str, dict[str, Any]]:
        """Return the manifests of the policies that decided requests, by version."""
        query = sa.select(POLICIES.c.version, POLICIES.c.manifest)
        with self._errors(), self._engine.connect() as connection:
            return {version: json.loads(text) for version, text in connection.execute(query)}

    def announce(self, replica: Replica) -> None:
        """Store a replica's state, and forget those that have been away for a day."""
        insert = self.insert(REPLICAS)
        row = {"name": replica.name, "seen": replica.seen, "state": replica.model_dump_json()}
        upsert = insert.values(row).on_conflict_do_update(index_elements=["name"], set_=row)
        with self.transaction() as connection:
            connection.execute(upsert)
            away = REPLICAS.c.seen < replica.seen - FORGET_SECONDS
            connection.execute(sa.delete(REPLICAS).where(away))

    def leave(self, name: str) -> None:
        """Remove a replica that ends."""
        with self.transaction() as connection:
            connection.execute(sa.delete(REPLICAS).where(REPLICAS.c.name == name))

    def replicas(self) -> list[Replica]:
        """Return the replicas on this database, by name."""
        query = sa.select(REPLICAS.c.state).order_by(REPLICAS.c.name)
        with self._errors(), self._engine.connect() as connection:
            return [Replica.model_validate_json(state) for (state,) in connection.execute(query)]

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def days_ago(days: float) -> float:
    """Return the time `days` days ago, Unix seconds."""
    return time.time() - 86400 * days
