"""What schemathesis has to know beyond the document."""

from __future__ import annotations

import uuid
from typing import Any

import schemathesis

RECEIVER = "https://receiver.example/hook"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Of URLs only those are good that lead to a public receiver, and of keys those that were used for nothing else."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
    if isinstance(case.body, dict):
        for name in ("url", "webhook_url"):
            if isinstance(case.body.get(name), str):
                case.body[name] = RECEIVER
