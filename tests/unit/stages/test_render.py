"""The mezzanine holds exactly what the model drew, or is not there."""

from __future__ import annotations

import io
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from models.contract import Interrupted
from stages.errors import DiskFull, FrameMismatch
from stages.mezzanine import pixel_format
from stages.render import render
from tests.unit.stages.clips import Painted, bars, decode, moving, plain, rendered, spec, tone


@pytest.mark.parametrize(("size", "fps"), [((112, 63), 8), ((63, 112), 16), ((720, 480), 24), ((64, 64), 29.97)])
def test_holds_every_frame_at_the_native_rate(tmp_path: Path, size: tuple[int, int], fps: float) -> None:
    clip = rendered(tmp_path, Painted(fps=fps), *size, 11)

    with av.open(str(clip.mezzanine.path)) as container:
        stream = container.streams.video[0]
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        assert stream.average_rate == Fraction(fps).limit_denominator(1001)
    assert times == [k / stream.average_rate for k in range(11)]
    assert (clip.width, clip.height, clip.frames, clip.fps) == (*size, 11, fps)


def test_small_pictures_come_back_within_rounding(tmp_path: Path) -> None:
    clip = rendered(tmp_path, Painted(), 112, 63, 9)

    for index, picture in enumerate(decode(clip.mezzanine.path)):
        assert np.abs(picture.astype(int) - moving(index / 8, 112, 63)).max() <= 2


@pytest.mark.parametrize("rgb", [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 60, 30)])
@pytest.mark.parametrize("size", [(112, 63), (1280, 720)])
def test_keeps_colours(tmp_path: Path, rgb: tuple[int, int, int], size: tuple[int, int]) -> None:
    clip = rendered(tmp_path, Painted(plain(*rgb)), *size, 1)

    assert np.abs(decode(clip.mezzanine.path)[0].astype(int) - rgb).max() <= 2


def test_says_which_colours_it_holds(tmp_path: Path) -> None:
    clip = rendered(tmp_path, Painted(bars), 112, 63, 2)

    with av.open(str(clip.mezzanine.path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((112, 63), "yuv444p"), ((832, 480), "yuv444p"), ((1280, 719), "yuv444p"), ((1280, 720), "yuv420p")],
)
def test_keeps_all_colour_detail_of_pictures_that_will_be_scaled_up(size: tuple[int, int], expected: str) -> None:
    assert pixel_format(*size) == expected


@pytest.mark.parametrize("channels", [1, 2])
def test_keeps_the_sound_sample_for_sample(tmp_path: Path, channels: int) -> None:
    clip = rendered(tmp_path, Painted(audio_sample_rate=24_000, channels=channels), 112, 63, 17)

    with av.open(str(clip.mezzanine.path)) as container:
        heard = np.concatenate([frame.to_ndarray().reshape(-1, channels) for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    assert clip.audio
    assert rate == 24_000
    np.testing.assert_array_equal(heard, tone(24_000, channels)(0, 17 * 3000))


def test_equal_clips_are_equal_files(tmp_path: Path) -> None:
    first, second = (rendered(tmp_path / name, Painted(), 112, 63, 9) for name in ("a", "b"))

    assert first.mezzanine.path.read_bytes() == second.mezzanine.path.read_bytes()


def test_refuses_a_clip_with_too_few_frames(tmp_path: Path) -> None:
    with pytest.raises(FrameMismatch, match="8 frames where 9") as raised:
        rendered(tmp_path, Painted(lost=1), 112, 63, 9)

    assert (raised.value.expected, raised.value.actual) == (9, 8)
    assert list(tmp_path.iterdir()) == []


def test_shows_small_pictures_of_a_clip_while_it_is_drawn(tmp_path: Path) -> None:
    shown: list[tuple[bytes, float, bool]] = []

    def show(jpeg: bytes, at_s: float) -> None:
        shown.append((jpeg, at_s, (tmp_path / "mezzanine.mov").exists()))

    render(Painted(), spec(1280, 720, 33), tmp_path, show=show)

    assert [(at_s, done) for _, at_s, done in shown] == [(0, False), (1, False), (2, False), (3, False)]
    for jpeg, at_s, _ in shown:
        with Image.open(io.BytesIO(jpeg)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (256, 144))
            drawn = Image.fromarray(moving(at_s, 1280, 720)).resize((256, 144), Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(picture).astype(int) - np.asarray(drawn)).mean() < 3


def test_shows_each_frame_of_a_very_short_clip_once(tmp_path: Path) -> None:
    shown: list[float] = []

    render(Painted(), spec(112, 63, 2), tmp_path, show=lambda jpeg, at_s: shown.append(at_s))

    assert shown == [0, 1 / 8]


class After:
    """A cancellation that comes at the n-th question."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted("cancelled")


def test_leaves_nothing_when_it_is_cancelled(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        render(Painted(), spec(112, 63, 33), tmp_path, cancellation=After(3))

    assert list(tmp_path.iterdir()) == []


def test_says_that_the_disk_is_full(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the write call fails in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFull, match=r"mezzanine\.mov.*Free some disk space"):
            rendered(tmp_path, Painted(), 640, 360, 33)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
