"""Synthetic clips with known content, and a model that plays them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from config.catalogue import Family, ModelEntry, Size
from models.contract import Cancellation, Chunk, ClipSpec, NeverCancelled, Report, Understood, ignore
from stages.render import Rendered, render

Picture = NDArray[np.uint8]
Painter = Callable[[float, int, int], Picture]
"""(seconds, width, height) → RGB picture."""

BARS = np.array(
    [(235, 235, 235), (235, 235, 16), (16, 235, 235), (16, 235, 16), (235, 16, 235), (235, 16, 16), (16, 16, 235)],
    dtype=np.uint8,
)


def bars(t: float, width: int, height: int) -> Picture:
    """Seven vertical colour bars that stand still."""
    row = BARS[np.arange(width) * len(BARS) // width]
    return np.ascontiguousarray(np.broadcast_to(row, (height, width, 3)))


def moving(t: float, width: int, height: int) -> Picture:
    """A red disc that crosses the picture in 4 s over a blue-grey gradient."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    background = np.stack([60 + 60 * y / height, 90 + 50 * y / height, 180 - 60 * y / height], axis=-1)
    radius = height / 6
    inside = np.clip(0.5 - (np.hypot(x - width * t / 4, y - height / 2) - radius), 0, 1)[..., None]
    return (background * (1 - inside) + inside * np.array([230, 40, 30])).astype(np.uint8)


def plain(*rgb: int) -> Painter:
    """One colour all over, all the time."""
    return lambda t, width, height: np.full((height, width, 3), rgb, dtype=np.uint8)


def fade_in(t: float, width: int, height: int) -> Picture:
    """Black for 0.5 s, then `moving` fades in until 2.5 s."""
    return (moving(t, width, height) * np.clip((t - 0.5) / 2, 0, 1)).astype(np.uint8)


def tone(rate: int, channels: int) -> Callable[[int, int], NDArray[np.float32]]:
    """(first sample, count) → 440 Hz at half loudness, shape (count, channels)."""

    def samples(first: int, count: int) -> NDArray[np.float32]:
        wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(first, first + count) / rate)
        return np.repeat(wave.astype(np.float32)[:, None], channels, axis=1)

    return samples


@dataclass
class Painted:
    """A `VideoModel` that plays a painter's pictures in chunks of 1, 4, 4, … frames."""

    painter: Painter = moving
    fps: float = 8
    audio_sample_rate: int | None = None
    channels: int = 2
    lost: int = 0
    """Frames it fails to deliver."""

    @property
    def entry(self) -> ModelEntry:
        return ModelEntry(
            name="painted", family=Family.WAN_TINY, purpose="tests", source="bundled", revision="1", licence="MIT",
            dtype="float32", sizes={"16:9": Size(width=112, height=64)}, frames=17, frame_step=4, fps=self.fps,
            output_fps=24, steps=4, guidance=1.0, vram_gib=0, extend="none", max_duration_s=60,
        )  # fmt: skip

    def understand(self, prompt: str) -> Understood:
        return Understood(complete=True, text=prompt)

    def generate(
        self, spec: ClipSpec, report: Report = ignore, cancellation: Cancellation = NeverCancelled(), *_: object
    ) -> Iterator[Chunk]:
        done, count = 0, 1
        while done < spec.frames - self.lost:
            count = min(count, spec.frames - self.lost - done)
            times = [(done + k) / self.fps for k in range(count)]
            frames = np.stack([self.painter(t, spec.width, spec.height) for t in times])
            yield Chunk(frames, self._sound(done, done + count))
            done, count = done + count, 4
            report(done / spec.frames, step=done)

    def _sound(self, first: int, last: int) -> NDArray[np.float32] | None:
        if not self.audio_sample_rate:
            return None
        start, stop = (round(frame * self.audio_sample_rate / self.fps) for frame in (first, last))
        return tone(self.audio_sample_rate, self.channels)(start, stop - start)


def spec(width: int, height: int, frames: int) -> ClipSpec:
    return ClipSpec("a red disc", width, height, frames, seed=1, steps=4, guidance=1.0)


def rendered(out: Path, model: Painted, width: int, height: int, frames: int) -> Rendered:
    return render(model, spec(width, height, frames), out)


def decode(path: Path) -> list[Picture]:
    """All frames as RGB, converted by the tags in the file (what a player does)."""
    with av.open(str(path)) as container:
        return [to_rgb(frame) for frame in container.decode(video=0)]


def to_rgb(frame: av.VideoFrame) -> Picture:
    picture: Picture = frame.to_ndarray(format="rgb24", src_colorspace="ITU709")
    return picture
