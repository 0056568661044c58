"""The endpoints, one module per section of the API document."""

from gateway.routes import jobs, system, videos

__all__ = ["jobs", "system", "videos"]
