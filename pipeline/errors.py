"""Errors of the store, the broker and the bus; foreign errors are translated where they arise and kept as the cause."""

from __future__ import annotations

from typing import ClassVar

from config.errors import Fault, T2MError


class PipelineError(T2MError):
    """Base of this package's errors."""


class InvalidRequest(PipelineError):
    """A job asks for what cannot be made.

    Attributes:
        fields: per wrong field, what is wrong with it and what would be accepted.
    """

    def __init__(self, fields: dict[str, list[str]]) -> None:
        super().__init__("; ".join(f"{name}: {' '.join(texts)}" for name, texts in fields.items()))
        self.fields = fields


class StoreError(PipelineError):
    """The object store cannot be reached or answered with an error."""

    fault: ClassVar[Fault] = Fault.TRANSIENT


class StoreFull(StoreError):
    """No space is left for a write."""

    fault: ClassVar[Fault] = Fault.RESOURCE


class InvalidKey(PipelineError):
    """No object may have such a key: it is empty, absolute, too long, or climbs out of the store."""


class ObjectMissing(PipelineError):
    """No object has this key."""


class AlreadyExists(PipelineError):
    """`create` lost: the key has an object."""


class PreconditionFailed(PipelineError):
    """`replace` lost: the object changed since its etag was read."""


class StoreUnfit(PipelineError):
    """The store ignores conditional writes; T2M would corrupt jobs on it."""


class ObjectCorrupt(PipelineError):
    """A blob's bytes do not have its digest."""


class BrokerError(PipelineError):
    """The message broker cannot be reached or refused a message."""

    fault: ClassVar[Fault] = Fault.TRANSIENT


class RecordUnreadable(PipelineError):
    """A stored request, record or verdict is not what this release understands."""


class RecordsBroken(PipelineError):
    """A job's records do not chain: a stage read something its producer did not write."""


class MessageRefused(PipelineError):
    """A stage message is of another version, or is none."""


class StageTimeout(PipelineError):
    """A stage ran past its time limit (`topology.LANES`)."""


class WorkerLost(PipelineError):
    """Workers died, again and again, while they ran this stage."""


class ContentRefused(PipelineError):
    """The deployment's safety hook does not let a video pass."""


class SafetyAway(PipelineError):
    """The deployment's safety hook failed."""

    fault: ClassVar[Fault] = Fault.TRANSIENT


class ScratchFull(PipelineError):
    """No space is left in the worker's scratch folder."""

    fault: ClassVar[Fault] = Fault.RESOURCE


class OutOfRam(PipelineError):
    """The worker ran out of memory."""

    fault: ClassVar[Fault] = Fault.RESOURCE


class Disconnected(PipelineError):
    """A connection broke outside of the store and the broker."""

    fault: ClassVar[Fault] = Fault.TRANSIENT


class Unexpected(PipelineError):
    """An error nobody foresaw: a bug. Its traceback is in the worker's log."""
