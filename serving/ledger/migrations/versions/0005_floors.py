"""Adds the floor and the price of quality that a decision was made under."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add three columns that are unknown for the rows so far."""
    op.add_column("requests", sa.Column("floor", sa.Double()))
    op.add_column("requests", sa.Column("floor_from", sa.Text()))
    op.add_column("requests", sa.Column("price", sa.Double()))
