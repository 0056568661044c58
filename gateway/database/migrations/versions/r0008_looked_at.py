"""When a silent job was last looked up, apart from when it last changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "jobs", sa.Column("looked_at", UtcDateTime, comment="a silent job's verdict was last looked up in the store")
    )


def downgrade() -> None:
    """Take back."""
    op.drop_column("jobs", "looked_at")
