"""Since when the log of a job that has ended is in the store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    told = "the log of the job, which has ended, is in the store since"
    op.add_column("jobs", sa.Column("archived_at", UtcDateTime, comment=told))
    where = sa.text("archived_at IS NULL")
    op.create_index("ix_jobs_unarchived", "jobs", ["status"], postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_jobs_unarchived", "jobs")
    op.drop_column("jobs", "archived_at")
