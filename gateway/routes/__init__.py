"""The endpoints, one module per section of the API document."""

from gateway.routes import jobs, models, system, videos, webhooks

__all__ = ["jobs", "models", "system", "videos", "webhooks"]
