"""The bundled model: Wan's classes, small, trained to continue its own latents."""

from __future__ import annotations

from pathlib import Path

from config.catalogue import ModelEntry
from models.families import wan


def load(entry: ModelEntry, folder: Path, device: str) -> wan.WanFamily:
    """The adapter of the bundled weights."""
    return wan.load(entry, folder, device)
