"""Indexes for what sweeps, forecasts and announcements look for; those on digests, which nothing asks for, go."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BLOBS = ("artifacts", "files", "file_thumbnails")


def upgrade() -> None:
    """Apply."""
    for table in BLOBS:
        op.create_index(f"ix_{table}_key", table, ["key"])
        op.drop_index(f"ix_{table}_digest", table)
    op.create_index("ix_jobs_model_completed_at", "jobs", ["model", "completed_at"])
    op.create_index("ix_webhooks_user_id_job_id", "webhooks", ["user_id", "job_id"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_webhooks_user_id_job_id", "webhooks")
    op.drop_index("ix_jobs_model_completed_at", "jobs")
    for table in BLOBS:
        op.create_index(f"ix_{table}_digest", table, ["digest"])
        op.drop_index(f"ix_{table}_key", table)
