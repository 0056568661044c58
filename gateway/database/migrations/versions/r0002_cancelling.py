"""Cancelling jobs, and the percentage of each event."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "jobs",
        sa.Column(
            "cancelling_at", UtcDateTime, comment="its owner asked to cancel it; no dispatcher takes it any more"
        ),
    )
    progress = sa.Column(
        "progress", sa.Float, nullable=False, server_default="0", comment="percentage of the job with this event"
    )
    op.add_column("events", progress)


def downgrade() -> None:
    """Take back."""
    op.drop_column("events", "progress")
    op.drop_column("jobs", "cancelling_at")
