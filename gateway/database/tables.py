"""The tables. Times are UTC; the same definitions serve SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC; SQLite has no time zones, so it is stored there without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database; a naive datetime is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


ID = String(64)

jobs = Table(
    "jobs",
    metadata,
    Column("id", ID, primary_key=True),
    Column("user_id", String(255), nullable=False),
    Column("type", String(32), nullable=False),
    Column("model", String(64), nullable=False),
    Column("request", JSON, nullable=False, comment="the accepted JobRequest"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("priority", Integer, nullable=False, comment="-1 low, 0 normal, 1 high"),
    Column("work", BigInteger, nullable=False, comment="frames times steps"),
    Column("seed", BigInteger, nullable=False),
    Column("signature", String(64), nullable=False, comment="equal where only the seed differs"),
    Column("reused_from", ID, comment="the job whose files it shares"),
    Column("joined", Integer, nullable=False, comment="identical requests it answers as well"),
    Column("retention_s", Integer, comment="how long it is kept after its end; null: for ever"),
    Column("expires_at", UtcDateTime, index=True, comment="when it is removed; null before its end"),
    Column("stream_nonce", String(32), comment="names the token that opens its playlists"),
    Column("stream_expires_at", UtcDateTime, comment="until when that token is good"),
    # the dispatcher's columns
    Column("epoch", Integer, nullable=False, comment="how often the job was sent"),
    Column("claimed_at", UtcDateTime, comment="a dispatcher is sending it since"),
    Column("dispatched_at", UtcDateTime, comment="the broker confirmed it"),
    Column("cancelling_at", UtcDateTime, comment="its owner asked to cancel it; no dispatcher takes it any more"),
    Column("looked_at", UtcDateTime, comment="a silent job's verdict was last looked up in the store"),
    # the projection
    Column("status", String(16), nullable=False),
    Column("stage", String(16), comment="of the event with the greatest order; null before the first"),
    Column("position", JSON, nullable=False, comment="the order of that event"),
    Column("progress", Float, nullable=False, comment="greatest percentage reported"),
    Column("started_at", UtcDateTime, index=True),
    Column("completed_at", UtcDateTime, comment="when `final` was decided"),
    Column("updated_at", UtcDateTime, nullable=False, comment="last change of the projection"),
    Column("seq", Integer, nullable=False, comment="sequence number of the job's last event"),
    Column("failure", JSON(none_as_null=True), comment="the Failure of a failed job"),
    Column("metadata", JSON(none_as_null=True), key="media", comment="content of metadata.json of a completed job"),
    Column("archived_at", UtcDateTime, comment="the log of the job, which has ended, is in the store since"),
)
Index("ix_jobs_user_id_created_at", jobs.c.user_id, jobs.c.created_at)
Index("ix_jobs_status_dispatched_at_created_at", jobs.c.status, jobs.c.dispatched_at, jobs.c.created_at)
Index("ix_jobs_user_id_signature", jobs.c.user_id, jobs.c.signature)
Index("ix_jobs_model_status_completed_at", jobs.c.model, jobs.c.status, jobs.c.completed_at)
Index("ix_jobs_status_completed_at", jobs.c.status, jobs.c.completed_at)
_UNARCHIVED = jobs.c.archived_at.is_(None)
Index("ix_jobs_unarchived", jobs.c.status, postgresql_where=_UNARCHIVED, sqlite_where=_UNARCHIVED)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False, comment="of what was asked"),
    Column("answer", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
)

events = Table(
    "events",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, comment="public sequence number within the job, from 1"),
    Column("progress", Float, nullable=False, comment="percentage of the job with this event"),
    Column("event_id", ID, nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("hop", Integer, nullable=False),
    Column("n", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False, comment="by the worker's clock"),
    Column("fraction", Float),
    Column("level", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("digest", String(80), nullable=False),
    Column("key", String(255), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("media_type", String(127), nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("queues", JSON, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False, comment="by the gateway's clock"),
    Column("stopping", Boolean, nullable=False),
    Column("heartbeat", JSON, nullable=False, comment="the last Heartbeat"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", ID, primary_key=True),
    Column("user_id", String(255), nullable=False),
    Column(
        "job_id",
        ID,
        ForeignKey("jobs.id", ondelete="CASCADE"),
        index=True,
        comment="whose own webhook_url this is; null: for all jobs of the user",
    ),
    Column("url", Text, nullable=False),
    Column("receiver", Text, nullable=False, comment="scheme, host and port of the URL"),
    Column("events", JSON, nullable=False),
    Column("secret", String(255), comment="null: the user's, see webhook_secrets"),
    Column("previous_secret", String(255)),
    Column("rotated_at", UtcDateTime, comment="from then on the previous secret signs for a day"),
    Column("active", Boolean, nullable=False),
    Column("disabled_reason", Text, comment="why the gateway stopped calling it"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
Index("ix_webhooks_user_id_created_at", webhooks.c.user_id, webhooks.c.created_at)
Index("ix_webhooks_user_id_job_id", webhooks.c.user_id, webhooks.c.job_id)

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("secret", String(255), nullable=False, comment="signs what is sent to the webhook_url of the user's jobs"),
    Column("previous_secret", String(255)),
    Column("rotated_at", UtcDateTime),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", ID, primary_key=True),
    Column("message_id", ID, nullable=False, comment="the same for every attempt and redelivery"),
    Column("webhook_id", ID, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), index=True, comment="null for a test"),
    Column("rank", Integer, comment="order among the messages of the job; null: sent regardless of the others"),
    Column("event", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    Column("leased_until", UtcDateTime, comment="a gateway is sending it until then"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, index=True),
    UniqueConstraint("webhook_id", "job_id", "rank"),
)
Index("ix_deliveries_status_due_at", deliveries.c.status, deliveries.c.due_at)
Index("ix_deliveries_webhook_id_created_at", deliveries.c.webhook_id, deliveries.c.created_at)

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("delivery_id", ID, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, comment="from 1"),
    Column("at", UtcDateTime, nullable=False),
    Column("seconds", Float, nullable=False, comment="until the answer, or until it failed"),
    Column("response_status", Integer),
    Column("error", Text),
)

limit_grants = Table(
    "limit_grants",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("name", String(16), primary_key=True, comment="of the limit"),
    Column("quota", Integer, nullable=False, comment="per hour, instead of the deployment's"),
)

limit_uses = Table(
    "limit_uses",
    metadata,
    Column("id", ID, primary_key=True),
    Column("user_id", String(255), nullable=False),
    Column("name", String(16), nullable=False, comment="of the limit"),
    Column("at", UtcDateTime, nullable=False),
)
Index("ix_limit_uses_user_id_name_at", limit_uses.c.user_id, limit_uses.c.name, limit_uses.c.at)

files = Table(
    "files",
    metadata,
    Column("id", ID, primary_key=True),
    Column("user_id", String(255), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("key", String(255), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("content_type", String(127), nullable=False, comment="by content"),
    Column("file_type", String(16), nullable=False),
    Column("subdirectory", String(255)),
    Column("description", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, index=True, comment="when it is removed; null: when it is deleted"),
    Column(
        "stored", Boolean, nullable=False, comment="false while its blob is being placed; nobody sees it until then"
    ),
    Column("inspection", String(16), nullable=False, comment="pending, ready or unreadable"),
    Column("inspect_at", UtcDateTime, comment="not before; a gateway that looks into it moves this on as its lease"),
    Column("inspections", Integer, nullable=False, comment="how often that was begun"),
    Column("metadata", JSON, nullable=False, key="details", comment="what was found in it"),
)
Index("ix_files_user_id_created_at", files.c.user_id, files.c.created_at)
Index("ix_files_inspection_inspect_at", files.c.inspection, files.c.inspect_at)
_UNSTORED = ~files.c.stored
Index("ix_files_unstored", files.c.created_at, postgresql_where=_UNSTORED, sqlite_where=_UNSTORED)

file_thumbnails = Table(
    "file_thumbnails",
    metadata,
    Column("file_id", ID, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(16), primary_key=True, comment="small, medium or large"),
    Column("digest", String(80), nullable=False),
    Column("key", String(255), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("media_type", String(127), nullable=False),
)

file_accesses = Table(
    "file_accesses",
    metadata,
    Column("file_id", ID, primary_key=True, comment="an upload's or a video's"),
    Column("day", Date, primary_key=True, comment="UTC"),
    Column("kind", String(16), primary_key=True, comment="download, stream or thumbnail"),
    Column("signed", Boolean, primary_key=True, comment="by a signed URL"),
    Column("user_id", String(255), nullable=False, index=True, comment="the owner"),
    Column("count", Integer, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
)

unreferenced = Table(
    "unreferenced",
    metadata,
    Column("key", String(255), primary_key=True, comment="of a blob that nothing refers to"),
    Column("size", BigInteger, nullable=False),
    Column("since", UtcDateTime, nullable=False, comment="when a sweep found it so"),
)
