"""The tables of the ledger's database; `serving/ledger/migrations` creates them."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from serving.ledger.quality.feedback import Feedback
from serving.ledger.quality.verdict import Verdict
from serving.ledger.record import Record

METADATA = sa.MetaData()
_COLUMN_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "str": sa.Text(),
    "float": sa.Double(),
    "int": sa.BigInteger(),
    "bool": sa.Boolean(),
}


def _columns(rows: type, key: str) -> "Iterator[sa.Column[Any]]":
    """Yield a column for each field of a dataclass.

    Args:
        key: field that is the primary key.
    """
    for field in fields(rows):
        annotation = getattr(field.type, "__name__", str(field.type))
        kind, *alternatives = annotation.split(" | ")
        yield sa.Column(
            field.name,
            _COLUMN_TYPES[kind],
            primary_key=field.name == key,
            nullable=alternatives == ["None"],
        )


REQUESTS = sa.Table("requests", METADATA, *_columns(Record, "decision_id"))
VERDICTS = sa.Table("verdicts", METADATA, *_columns(Verdict, "verdict_id"))
FEEDBACK = sa.Table("feedback", METADATA, *_columns(Feedback, "feedback_id"))
# The guard's state of each cell, and its history.
GUARD_CELLS = sa.Table(
    "guard_cells",
    METADATA,
    sa.Column("cell", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
)
GUARD_LOG = sa.Table(
    "guard_log",
    METADATA,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("told", sa.Boolean, nullable=False),
)
CONTROL = sa.Table(
    "control",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("setting", sa.Text, nullable=False),
)
REPLICAS = sa.Table(
    "replicas",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("seen", sa.Double, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)
# Manifests of the policy bundles that decided requests, without their prompts' hashes.
POLICIES = sa.Table(
    "policies",
    METADATA,
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("manifest", sa.Text, nullable=False),
)
