"""Jobs, their events and artifacts, and the workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("request", sa.JSON, nullable=False, comment="the accepted JobRequest"),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False, comment="how often the job was sent"),
        sa.Column("claimed_at", UtcDateTime, comment="a dispatcher is sending it since"),
        sa.Column("dispatched_at", UtcDateTime, comment="the broker confirmed it"),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(16), comment="of the event with the greatest order; null before the first"),
        sa.Column("position", sa.JSON, nullable=False, comment="the order of that event"),
        sa.Column("progress", sa.Float, nullable=False, comment="greatest percentage reported"),
        sa.Column("started_at", UtcDateTime),
        sa.Column("completed_at", UtcDateTime, comment="when `final` was decided"),
        sa.Column("updated_at", UtcDateTime, nullable=False, comment="last change of the projection"),
        sa.Column("seq", sa.Integer, nullable=False, comment="sequence number of the job's last event"),
        sa.Column("failure", sa.JSON, comment="the Failure of a failed job"),
        sa.Column("metadata", sa.JSON, comment="content of metadata.json of a completed job"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_user_id_created_at", "jobs", ["user_id", "created_at"])
    op.create_index("ix_jobs_status_dispatched_at_created_at", "jobs", ["status", "dispatched_at", "created_at"])
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("seq", sa.Integer, nullable=False, comment="public sequence number within the job, from 1"),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("hop", sa.Integer, nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False, comment="by the worker's clock"),
        sa.Column("fraction", sa.Float),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id_jobs", ondelete="CASCADE"),
        sa.UniqueConstraint("event_id", name="uq_events_event_id"),
    )
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("media_type", sa.String(127), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_artifacts"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_artifacts_job_id_jobs", ondelete="CASCADE"),
    )
    op.create_index("ix_artifacts_digest", "artifacts", ["digest"])
    op.create_table(
        "workers",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("queues", sa.JSON, nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False, comment="by the gateway's clock"),
        sa.Column("stopping", sa.Boolean, nullable=False),
        sa.Column("heartbeat", sa.JSON, nullable=False, comment="the last Heartbeat"),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def downgrade() -> None:
    """Take back."""
    for table in ("workers", "artifacts", "events", "jobs"):
        op.drop_table(table)
