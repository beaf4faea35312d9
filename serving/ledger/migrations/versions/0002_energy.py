"""Adds the source and kind of the intensity, and the error of attributed joules."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the three columns."""
    for name in ("intensity_step", "intensity_kind"):
        op.add_column("requests", sa.Column(name, sa.Text()))
    op.add_column("requests", sa.Column("energy_error_joules", sa.Double()))
    # Earlier versions supported only this kind.
    op.execute(
        "UPDATE requests SET intensity_kind = 'average direct' "
        "WHERE intensity_g_per_kwh IS NOT NULL"
    )
