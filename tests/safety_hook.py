"""A safety hook for tests: a prompt says what it thinks of itself."""

from __future__ import annotations

from pathlib import Path

from pipeline.vocabulary import JobRequest


class Hook:
    def prompt(self, request: JobRequest) -> str | None:
        if request.prompt == "broken hook":
            raise OSError("away")
        return "Not this prompt." if request.prompt == "bad prompt" else None

    def video(self, request: JobRequest, video: Path) -> str | None:
        assert video.stat().st_size
        if request.prompt == "hook breaks later":
            raise OSError("away")
        return f"Not this {video.name}." if request.prompt == "bad video" else None


class NoHook:
    pass
