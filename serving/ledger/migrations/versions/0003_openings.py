"""Adds which request opened its conversation, how it is known, and the replicas."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns, both unknown for the rows so far, and a table."""
    op.add_column("requests", sa.Column("keyed_by", sa.Text()))
    op.add_column("requests", sa.Column("opening", sa.Boolean()))
    op.create_table(
        "replicas",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
    )
