"""First version: tables of the requests and of the operators' settings."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXTS = (
    *("replica", "model", "task", "tenant", "conversation", "mode", "rule", "directive"),
    *("reason", "policy_version", "features", "tokens_method", "energy_method", "outcome"),
    *("route", "prompt", "response"),
)
FLOATS = (
    *("time", "hold_out_ratio", "probability", "decision_seconds", "intensity_g_per_kwh"),
    *("intensity_time", "intensity_age_seconds", "seconds_first", "seconds", "energy_joules"),
    "grams",
)
INTEGERS = ("characters", "in_flight", "prompt_tokens", "completion_tokens", "status")
BOOLEANS = ("lottery", "hold_out", "applied", "streamed")
NULLABLE = {
    *("model", "task", "tenant", "conversation", "rule", "policy_version", "features"),
    *("intensity_g_per_kwh", "intensity_time", "intensity_age_seconds", "prompt_tokens"),
    *("completion_tokens", "tokens_method", "seconds_first", "energy_joules", "energy_method"),
    *("grams", "prompt", "response"),
}


def upgrade() -> None:
    """Create both tables."""
    kinds: list[tuple[str, sa.types.TypeEngine[Any]]] = [
        *((name, sa.Text()) for name in TEXTS),
        *((name, sa.Double()) for name in FLOATS),
        *((name, sa.BigInteger()) for name in INTEGERS),
        *((name, sa.Boolean()) for name in BOOLEANS),
    ]
    op.create_table(
        "requests",
        sa.Column("decision_id", sa.Text(), primary_key=True),
        *(sa.Column(name, kind, nullable=name in NULLABLE) for name, kind in kinds),
    )
    op.create_index("requests_time", "requests", ["time"])
    op.create_index("requests_tenant", "requests", ["tenant"])
    op.create_table(
        "control",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("setting", sa.Text(), nullable=False),
    )
