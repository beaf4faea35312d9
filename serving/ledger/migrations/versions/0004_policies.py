"""Adds the policies' manifests, and which model and build an answer says that it is from."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table, and two columns that are unknown for the rows so far."""
    op.create_table(
        "policies",
        sa.Column("version", sa.Text(), primary_key=True),
        sa.Column("manifest", sa.Text(), nullable=False),
    )
    for name in ("answer_model", "fingerprint"):
        op.add_column("requests", sa.Column(name, sa.Text()))
