"""Where training keeps its state, how it saves it without ever leaving half a file, and its CSV log."""

import csv
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch


def folder() -> Path:
    """The training folder: T2M_TRAIN_DIR, or one in the user's cache. Created when missing."""
    path = Path(os.environ.get("T2M_TRAIN_DIR") or Path.home() / ".cache" / "t2m" / "train")
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside its place, then move it there."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, or None where there is none yet."""
    return torch.load(path, map_location="cpu", weights_only=False) if path.exists() else None


class Log:
    """A CSV file that grows by a row at a time; the columns are those of the first row ever written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def row(self, **values: float | int | str) -> None:
        """Append one row, with the time of day, and report it."""
        values = {"time": time.strftime("%H:%M:%S", time.gmtime()), **values}
        text = {key: f"{value:.5g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        columns = self._columns()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns or list(text), extrasaction="ignore")
            if not columns:
                writer.writeheader()
            writer.writerow(text)
        logging.info(" ".join(f"{key}={value}" for key, value in text.items()))

    def _columns(self) -> list[str]:
        """Those of the file, none where there is no file yet."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return next(csv.reader(file), [])
