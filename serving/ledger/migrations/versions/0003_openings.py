"""Adds which request opened its conversation, and how the conversation is known."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the two columns; both are unknown for the rows so far."""
    op.add_column("requests", sa.Column("keyed_by", sa.Text()))
    op.add_column("requests", sa.Column("opening", sa.Boolean()))
