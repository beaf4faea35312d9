"""How an intensity was come by and of what kind it is; how sure attributed joules are."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    for name in ("intensity_step", "intensity_kind"):
        op.add_column("requests", sa.Column(name, sa.Text()))
    op.add_column("requests", sa.Column("energy_error_joules", sa.Double()))
    # There was no other kind before.
    op.execute(
        "UPDATE requests SET intensity_kind = 'average direct' "
        "WHERE intensity_g_per_kwh IS NOT NULL"
    )
