"""The endpoints, one module per section of the API document."""

from gateway.routes import jobs, models, system, videos

__all__ = ["jobs", "models", "system", "videos"]
