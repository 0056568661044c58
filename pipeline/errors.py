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
