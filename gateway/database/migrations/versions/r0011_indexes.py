"""Indexes for figures of the last hours and for what is removed when its time is over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_jobs_started_at", "jobs", ["started_at"])
    op.create_index("ix_jobs_status_completed_at", "jobs", ["status", "completed_at"])
    op.create_index("ix_jobs_model_status_completed_at", "jobs", ["model", "status", "completed_at"])
    op.drop_index("ix_jobs_model_completed_at", "jobs")
    op.create_index("ix_deliveries_ended_at", "deliveries", ["ended_at"])
    where = ~sa.column("stored", sa.Boolean)
    op.create_index("ix_files_unstored", "files", ["created_at"], postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_files_unstored", "files")
    op.drop_index("ix_deliveries_ended_at", "deliveries")
    op.create_index("ix_jobs_model_completed_at", "jobs", ["model", "completed_at"])
    op.drop_index("ix_jobs_model_status_completed_at", "jobs")
    op.drop_index("ix_jobs_status_completed_at", "jobs")
    op.drop_index("ix_jobs_started_at", "jobs")
