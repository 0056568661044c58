"""Webhooks and their deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("job_id", sa.String(64), comment="whose own webhook_url this is; null: for all jobs of the user"),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("receiver", sa.Text, nullable=False, comment="scheme, host and port of the URL"),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("secret", sa.String(255), comment="null: the user's, see webhook_secrets"),
        sa.Column("previous_secret", sa.String(255)),
        sa.Column("rotated_at", UtcDateTime, comment="from then on the previous secret signs for a day"),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("disabled_reason", sa.Text, comment="why the gateway stopped calling it"),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_webhooks_job_id_jobs", ondelete="CASCADE"),
    )
    op.create_index("ix_webhooks_job_id", "webhooks", ["job_id"])
    op.create_index("ix_webhooks_user_id_created_at", "webhooks", ["user_id", "created_at"])
    op.create_table(
        "webhook_secrets",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column(
            "secret",
            sa.String(255),
            nullable=False,
            comment="signs what is sent to the webhook_url of the user's jobs",
        ),
        sa.Column("previous_secret", sa.String(255)),
        sa.Column("rotated_at", UtcDateTime),
        sa.PrimaryKeyConstraint("user_id", name="pk_webhook_secrets"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("message_id", sa.String(64), nullable=False, comment="the same for every attempt and redelivery"),
        sa.Column("webhook_id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), comment="null for a test"),
        sa.Column(
            "rank", sa.Integer, comment="order among the messages of the job; null: sent regardless of the others"
        ),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.Column("leased_until", UtcDateTime, comment="a gateway is sending it until then"),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name="fk_deliveries_webhook_id_webhooks", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_deliveries_job_id_jobs", ondelete="CASCADE"),
        sa.UniqueConstraint("webhook_id", "job_id", "rank", name="uq_deliveries_webhook_id"),
    )
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"])
    op.create_index("ix_deliveries_status_due_at", "deliveries", ["status", "due_at"])
    op.create_index("ix_deliveries_webhook_id_created_at", "deliveries", ["webhook_id", "created_at"])
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False, comment="from 1"),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False, comment="until the answer, or until it failed"),
        sa.Column("response_status", sa.Integer),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_delivery_attempts"),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name="fk_delivery_attempts_delivery_id_deliveries", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Take back."""
    for table in ("delivery_attempts", "deliveries", "webhook_secrets", "webhooks"):
        op.drop_table(table)
