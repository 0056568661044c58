"""Who wants to hear of cancellations."""

from __future__ import annotations

import threading

import structlog

from pipeline.bus.base import CancelListener

log = structlog.get_logger(__name__)


class Listeners:
    """The `on_cancel` half of a publisher."""

    def __init__(self) -> None:
        self._listeners: list[CancelListener] = []
        self._listeners_lock = threading.Lock()

    def on_cancel(self, listener: CancelListener) -> None:
        """See `EventPublisher.on_cancel`."""
        with self._listeners_lock:
            self._listeners.append(listener)

    def tell(self, job_id: str) -> None:
        """Call every listener; one that raises keeps it from no other."""
        with self._listeners_lock:
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener(job_id)
            except Exception:  # whatever a listener does, the bus goes on
                log.exception("cancel_listener_failed", job_id=job_id)
