"""The tables of the ledger's database; `serving/ledger/migrations` creates them."""

from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from serving.ledger.record import Record

METADATA = sa.MetaData()
_COLUMN_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "str": sa.Text(),
    "float": sa.Double(),
    "int": sa.BigInteger(),
    "bool": sa.Boolean(),
}


def _column(name: str, annotation: str) -> "sa.Column[Any]":
    kind, *alternatives = annotation.split(" | ")
    return sa.Column(
        name,
        _COLUMN_TYPES[kind],
        primary_key=name == "decision_id",
        nullable=alternatives == ["None"],
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
