"""The ledger's database: one row a request, and what operators set at run time.

SQLite or PostgreSQL through SQLAlchemy; the schema's versions are Alembic's
(`serving/migrations`). Never touched on a request's way.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from envs.errors import ConfigError
from serving.ledger.record import Amendment, Record
from serving.settings.control import Control

METADATA = sa.MetaData()
_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "str": sa.Text(),
    "float": sa.Double(),
    "int": sa.BigInteger(),
    "bool": sa.Boolean(),
}


def _column(name: str, annotation: str) -> "sa.Column[Any]":
    kind, *rest = annotation.split(" | ")
    return sa.Column(
        name, _COLUMNS[kind], primary_key=name == "decision_id", nullable=rest == ["None"]
    )


REQUESTS = sa.Table(
    "requests",
    METADATA,
    *(_column(f.name, getattr(f.type, "__name__", str(f.type))) for f in fields(Record)),
)
CONTROL = sa.Table(
    "control",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("setting", sa.Text, nullable=False),
)
_NAMES = frozenset(column.name for column in REQUESTS.columns) - {"decision_id"}
# Values of a record in the order of the columns.
_VALUES = attrgetter(*(column.name for column in REQUESTS.columns))
_CONNECT_SECONDS = 2


class Ledger:
    """One database.

    Args:
        url: SQLAlchemy's, e.g. sqlite:///file.db or postgresql+psycopg://user@host/db.

    Raises:
        ConfigError: no URL of a database that is known. Its password is not repeated.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            kind = parsed.get_backend_name()
            if kind not in ("sqlite", "postgresql"):
                raise ValueError(kind)
            timeout = "timeout" if kind == "sqlite" else "connect_timeout"
            self._engine = sa.create_engine(
                parsed,
                connect_args={timeout: _CONNECT_SECONDS},
                pool_pre_ping=kind != "sqlite",
                paramstyle="qmark" if kind == "sqlite" else "format",
            )
        except (sa.exc.ArgumentError, ValueError, ModuleNotFoundError) as error:
            raise ConfigError(
                "--ledger: give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
            ) from error
        self._kind = kind
        # Written out once: a row then costs a fifth of what it does through the expression.
        insert = (postgresql.insert if kind == "postgresql" else sqlite.insert)(REQUESTS)
        compiled = insert.on_conflict_do_nothing().compile(dialect=self._engine.dialect)
        self._insert = str(compiled)
        self.shown = parsed.render_as_string(hide_password=True)

    def migrate(self) -> None:
        """Bring the schema to this version's; safe when several replicas do so at once."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._engine.begin() as connection:
            # One at a time, and all or nothing.
            alone = "SELECT pg_advisory_xact_lock(5077)"
            connection.execute(sa.text(alone if self._kind == "postgresql" else "BEGIN IMMEDIATE"))
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
        if self._kind == "sqlite":
            # Readers then don't stop the writer. Where another is at it, it is done there.
            with suppress(sa.exc.OperationalError), self._engine.connect() as connection:
                if connection.execute(sa.text("PRAGMA journal_mode")).scalar() != "wal":
                    connection.execute(sa.text("PRAGMA journal_mode=WAL"))

    def add(self, records: Sequence[Record]) -> None:
        """Insert records; those already there stay as they are."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql(self._insert, [_VALUES(record) for record in records])

    def amend(self, amendments: Iterable[Amendment]) -> list[Amendment]:
        """Update records; return the amendments whose record is not there yet."""
        missing = []
        with self._engine.begin() as connection:
            for amendment in amendments:
                changes = {k: v for k, v in amendment.changes.items() if k in _NAMES}
                found = REQUESTS.c.decision_id == amendment.decision_id
                statement = sa.update(REQUESTS).where(found).values(**changes)
                if not connection.execute(statement).rowcount:
                    missing.append(amendment)
        return missing

    def rows(
        self, names: Sequence[str], since: float = 0.0, until: float | None = None
    ) -> Iterator[Sequence[Any]]:
        """Columns of the records of a span of time (Unix seconds), oldest first."""
        columns = [REQUESTS.c[name] for name in names]
        chosen = sa.select(*columns).where(REQUESTS.c.time >= since).order_by(REQUESTS.c.time)
        if until is not None:
            chosen = chosen.where(REQUESTS.c.time < until)
        with self._engine.connect() as connection:
            yield from connection.execution_options(yield_per=1000).execute(chosen)

    def find(self, decision_id: str) -> dict[str, Any] | None:
        """One record, by column."""
        chosen = sa.select(REQUESTS).where(REQUESTS.c.decision_id == decision_id)
        with self._engine.connect() as connection:
            found = connection.execute(chosen).mappings().first()
        # Its names are a subclass of str that not every writer of JSON takes.
        return {str(name): value for name, value in found.items()} if found is not None else None

    def delete(
        self,
        *,
        before: float | None = None,
        decision_id: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Delete records older than a time, of a decision, or of a tenant; how many."""
        tests = []
        if before is not None:
            tests.append(REQUESTS.c.time < before)
        if decision_id is not None:
            tests.append(REQUESTS.c.decision_id == decision_id)
        if tenant is not None:
            tests.append(REQUESTS.c.tenant == tenant)
        if not tests:
            raise ValueError("nothing named to delete")
        with self._engine.begin() as connection:
            return int(connection.execute(sa.delete(REQUESTS).where(*tests)).rowcount)

    def control(self, initial: Control | None = None) -> Control:
        """What operators have set; where nothing is, `initial` is put there first.

        Raises:
            ConfigError: nothing is set and there is no initial setting.
        """
        if initial is not None:
            insert = (postgresql.insert if self._kind == "postgresql" else sqlite.insert)(CONTROL)
            row = {"id": 1, "revision": 0, "setting": initial.model_dump_json()}
            with self._engine.begin() as connection:
                connection.execute(insert.on_conflict_do_nothing(), row)
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(CONTROL.c.setting)).scalar()
        if found is None:
            raise ConfigError(f"{self.shown}: no hook has used this ledger yet")
        return Control.model_validate_json(found)

    def set_control(self, **changes: Any) -> Control:
        """Change what operators set, for all replicas; what holds then."""
        while True:
            now = self.control()
            new = Control.model_validate(
                {**now.model_dump(), **changes, "revision": now.revision + 1}
            )
            statement = sa.update(CONTROL).where(CONTROL.c.revision == now.revision)
            values = {"revision": new.revision, "setting": new.model_dump_json()}
            with self._engine.begin() as connection:
                # Nobody else has changed it meanwhile.
                if connection.execute(statement.values(**values)).rowcount:
                    return new

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()


def days_ago(days: float) -> float:
    """Unix seconds."""
    return time.time() - 86400 * days
