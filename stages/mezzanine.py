"""The file between render and encode: lossless, cheap on CPU, exact in time.

Container: QuickTime, because its time scale is a whole number of ticks per frame at any rate (Matroska rounds to
milliseconds) and because a file that was cut short has no index and cannot be opened.

Codec: x264 `ultrafast` at QP 0 (lossless). Of the codecs measured on 121 frames of 720p it costs about a tenth of
ProRes in CPU and a third of the bytes of RGB codecs (2.2 s to write, 2.0 s to read, 11.5 MB per second of video).

Chroma: 4:4:4 for pictures whose short side is below 720 or whose sides are odd, else 4:2:0. Every rendition ends as
4:2:0 with at least 360 lines of colour; a picture below 720 lines has more colour detail than its own 4:2:0 could carry
and is scaled up (colour edges of a 112×63 picture would otherwise smear over 34 pixels of a 1080p rendition), while its
extra planes cost little. 4:2:0 also cannot hold odd sides.

Sound: 32-bit float PCM, the models' own samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from models.contract import Chunk
from stages import colour
from stages.errors import MediaUnreadable

NAME = "mezzanine.mov"
MEDIA_TYPE = "video/quicktime"

FULL_CHROMA_BELOW = 720
"""Short side in pixels below which chroma is kept whole; the lowest rung of the ladder."""

THREADS = 2
"""Of the encoder; fixed, so that equal frames give equal bytes. It keeps ahead of any VAE with this."""

CONVERSION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
"""RGB to YUV: exact rounding (the fast path is off by up to 2 levels); bicubic matters only where 4:2:0 is made."""

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
"""Channel layouts by number of channels."""


def rate(fps: float) -> Fraction:
    """`fps` as the exact ratio it stands for; 23.976 is 24000/1001."""
    return Fraction(fps).limit_denominator(1001)


def pixel_format(width: int, height: int) -> str:
    """The chroma sampling kept for a picture of this size; see the module docstring."""
    whole = min(width, height) >= FULL_CHROMA_BELOW and width % 2 == 0 and height % 2 == 0
    return "yuv420p" if whole else "yuv444p"


class MezzanineWriter:
    """Writes chunks one after the other; holds one frame at a time. Not safe for concurrent calls.

    Attributes:
        width, height: in pixels, known once the first chunk came.
        frames: written so far.
    """

    def __init__(self, container: OutputContainer, fps: float, sample_rate: int | None) -> None:
        self.width = self.height = self.frames = 0
        self._container = container
        self._rate = rate(fps)
        self._sample_rate = sample_rate
        self._samples = 0
        self._video: VideoStream | None = None
        self._track: AudioStream | None = None

    @property
    def audio(self) -> bool:
        """Whether there is a sound track."""
        return self._track is not None

    def write(self, chunk: Chunk) -> None:
        """Append frames and the sound that plays with them."""
        if self._video is None:
            self._open(chunk)
        if chunk.frames.shape[1:] != (self.height, self.width, 3):
            raise MediaUnreadable(f"The model changed its picture size to {chunk.frames.shape[1:]} in mid-clip.")
        for pixels in chunk.frames:
            self._write_frame(pixels)
        if chunk.audio is not None and len(chunk.audio):
            self._write_sound(chunk.audio)

    def finish(self) -> None:
        """Flush the encoders. Closing the container then writes the index."""
        for stream in (self._video, self._track):
            if stream is not None:
                self._container.mux(stream.encode(None))

    def _open(self, chunk: Chunk) -> None:
        _, self.height, self.width, _ = chunk.frames.shape
        self._video = self._open_video()
        if chunk.audio is not None and self._sample_rate:
            self._track = self._container.add_stream("pcm_f32le", rate=self._sample_rate)
            self._track.layout = LAYOUTS[chunk.audio.shape[1]]

    def _open_video(self) -> VideoStream:
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.width, stream.height = self.width, self.height
        stream.pix_fmt = pixel_format(self.width, self.height)
        stream.options = {"preset": "ultrafast", "qp": "0"}
        stream.codec_context.thread_count = THREADS
        stream.codec_context.time_base = 1 / self._rate
        colour.tag(stream.codec_context)
        return stream

    def _write_frame(self, pixels: NDArray[np.uint8]) -> None:
        assert self._video is not None  # noqa: S101 - write() opened it
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format=self._video.pix_fmt,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=CONVERSION,
        )
        picture.pts = self.frames
        picture.time_base = 1 / self._rate
        self._container.mux(self._video.encode(picture))
        self.frames += 1

    def _write_sound(self, samples: NDArray[np.float32]) -> None:
        if self._track is None or self._sample_rate is None:
            raise MediaUnreadable("The model gave sound in mid-clip after a silent start.")
        packed = np.ascontiguousarray(samples, dtype=np.float32).reshape(1, -1)
        sound = av.AudioFrame.from_ndarray(packed, format="flt", layout=LAYOUTS[samples.shape[1]])
        sound.sample_rate = self._sample_rate
        sound.time_base = Fraction(1, self._sample_rate)
        sound.pts = self._samples
        self._container.mux(self._track.encode(sound))
        self._samples += len(samples)


@contextmanager
def mezzanine(path: Path, fps: float, sample_rate: int | None) -> Iterator[MezzanineWriter]:
    """A writer of a new file at `path`, which is complete once the block has ended without an error.

    Args:
        fps: native rate of the frames.
        sample_rate: of the sound in Hz, None for silent models.
    """
    with av.open(str(path), "w", format="mov") as container:
        container.flags |= av.container.Flags.bitexact.value  # no library version in the file: equal clips, equal bytes
        writer = MezzanineWriter(container, fps, sample_rate)
        yield writer
        writer.finish()
