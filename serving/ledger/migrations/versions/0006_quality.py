"""Adds the verdicts on answers, people's feedback, and the guard's states and history."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add four tables, and two columns that are unknown for the rows so far."""
    for name in ("follow_up", "cut_off"):
        op.add_column("requests", sa.Column(name, sa.Text()))
    needed = (
        *("verdict_id", "decision_id", "model", "task", "zone", "policy_version", "arm"),
        *("directive", "judge", "result"),
    )
    op.create_table(
        "verdicts",
        *(sa.Column(n, sa.Text(), primary_key=n == "verdict_id", nullable=False) for n in needed),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("decided", "time")),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("judge_seconds", sa.Double(), nullable=False),
        sa.Column("rubric", sa.Text()),
        *(sa.Column(name, sa.Double()) for name in ("floor", "quality", "l0_quality")),
        *(sa.Column(f"{name}_joules", sa.Double()) for name in ("judge", "evaluation")),
        sa.Column("evaluation_grams", sa.Double()),
        *(sa.Column(name, sa.BigInteger()) for name in ("tokens", "l0_tokens", "judge_tokens")),
        sa.Column("consistent", sa.Boolean()),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in ("heeded", "counted")),
    )
    op.create_index("verdicts_decision", "verdicts", ["decision_id"])
    op.create_index("verdicts_decided", "verdicts", ["decided"])
    op.create_index("verdicts_cell", "verdicts", ["model", "task", "zone", "decided"])
    op.create_index("verdicts_counted", "verdicts", ["counted"])
    op.create_table(
        "feedback",
        sa.Column("feedback_id", sa.Text(), primary_key=True),
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("value", sa.Double()),
        *(sa.Column(name, sa.Text()) for name in ("correction", "comment")),
    )
    op.create_index("feedback_decision", "feedback", ["decision_id"])
    op.create_table(
        "guard_cells",
        sa.Column("cell", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
    )
    op.create_table(
        "guard_log",
        sa.Column("event_id", sa.Text(), primary_key=True),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("told", sa.Boolean(), nullable=False),
    )
