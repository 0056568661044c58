"""Posters show the clip, and every moment has its tile."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.contract import Interrupted
from stages import poster, storyboard
from stages.errors import MediaUnreadable
from stages.thumbnails import thumbnails
from tests.unit.stages.clips import decode, fade_in
from tests.unit.stages.conftest import LONG, SHORT, TALL, Case, Made, Maker
from tests.unit.stages.media import red_centre

CUE = re.compile(r"(\d\d):(\d\d):(\d\d\.\d{3}) --> (\d\d):(\d\d):(\d\d\.\d{3})\n(\S+)#xywh=(\d+),(\d+),(\d+),(\d+)\n")
FADE = Case("fade", painter=fade_in, frames=32, seconds=4)


@pytest.fixture(params=[LONG, SHORT, TALL], ids=lambda case: case.name)
def video(request: pytest.FixtureRequest, maker: Maker) -> Path:
    return top(maker(request.param))


def top(made: Made) -> Path:
    return made.mp4s[made.rungs[-1]]


def cues(path: Path) -> list[tuple[float, float, tuple[int, ...]]]:
    """(start, end, (x, y, width, height)) of each cue."""
    text = path.read_text()
    assert text.startswith("WEBVTT\n\n")
    found = []
    for match in CUE.finditer(text):
        numbers = [float(part) for part in match.groups()[:6]]
        assert match[7] == "storyboard.jpg"
        start, end = (60 * (60 * h + m) + s for h, m, s in (numbers[:3], numbers[3:]))
        found.append((start, end, tuple(int(part) for part in match.groups()[7:])))
    assert len(found) == text.count("-->")
    return found


def close(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    return float(np.abs(one.astype(int) - other).mean()) < 4


def test_posters_have_their_widths_and_the_shape_of_the_video(video: Path, tmp_path: Path) -> None:
    made = thumbnails(video, tmp_path)

    height, width, _ = decode(video)[0].shape
    for name, wide in (("poster-small.jpg", 320), ("poster-medium.jpg", 640), ("poster-large.jpg", 1280)):
        with Image.open(tmp_path / name) as image:
            assert image.format == "JPEG"
            assert image.size == (wide, round(wide * height / width))
    assert {a.name: a.media_type for a in made} == {
        "poster-small.jpg": "image/jpeg",
        "poster-medium.jpg": "image/jpeg",
        "poster-large.jpg": "image/jpeg",
        "storyboard.jpg": "image/jpeg",
        "storyboard.vtt": "text/vtt",
    }


def test_the_poster_is_a_frame_of_the_clip_in_its_colours(video: Path, tmp_path: Path) -> None:
    thumbnails(video, tmp_path)

    with Image.open(tmp_path / "poster-small.jpg") as image:
        small = np.asarray(image)
    frames = [np.asarray(Image.fromarray(frame).resize(image.size)) for frame in decode(video)[::3]]
    assert any(close(small, frame) for frame in frames)


def test_the_poster_of_a_fade_in_is_taken_after_it(maker: Maker, tmp_path: Path) -> None:
    video = top(maker(FADE))
    thumbnails(video, tmp_path)

    frames = decode(video)
    with Image.open(tmp_path / "poster-large.jpg") as image:
        shown = np.asarray(image)
    assert frames[0].max() < 20  # it does start black
    assert shown.mean() > 0.9 * frames[-1].mean()
    assert red_centre(shown) > 2.4 / 4  # where the disc is once the fade is over


def test_cues_cover_the_whole_video_without_gaps(video: Path, tmp_path: Path) -> None:
    thumbnails(video, tmp_path)

    spans = cues(tmp_path / "storyboard.vtt")
    fps = 30 if video.parent.name == "tall" else 24
    duration = len(decode(video)) / fps
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert duration <= spans[-1][1] < duration + 0.002
    assert len(spans) <= 100


def test_each_tile_shows_the_frame_at_the_start_of_its_cue(video: Path, tmp_path: Path) -> None:
    thumbnails(video, tmp_path)

    frames, fps = decode(video), 30 if video.parent.name == "tall" else 24
    with Image.open(tmp_path / "storyboard.jpg") as image:
        sheet = np.asarray(image)
    boxes = [box for _, _, box in cues(tmp_path / "storyboard.vtt")]
    assert len(set(boxes)) == len(boxes)
    for start, _, (x, y, width, height) in cues(tmp_path / "storyboard.vtt"):
        tile = sheet[y : y + height, x : x + width]
        assert tile.shape[:2] == (height, width)
        assert width == 160
        frame = Image.fromarray(frames[math.ceil(start * fps - 1e-6)]).resize((width, height), Image.Resampling.BOX)
        assert close(tile, np.asarray(frame))


@given(duration=st.floats(1 / 60, 3600), fps=st.integers(1, 60))
def test_there_are_never_more_than_a_hundred_tiles(duration: float, fps: int) -> None:
    seconds = storyboard.interval(duration, fps)

    assert math.ceil(round(duration / seconds, 6)) <= 100
    assert seconds * fps >= 1 or seconds == duration / 100


def test_contrast_decides_and_the_middle_breaks_ties() -> None:
    scene = np.tile(np.arange(0, 160, dtype=np.uint8), (90, 1))

    assert poster.score(scene, 0.0) > poster.score(scene // 2, 0.5)
    assert poster.score(scene, 0.5) > poster.score(scene, 0.1)
    assert poster.score(np.zeros_like(scene), 0.5) == 0


def test_equal_videos_give_equal_pictures(short: Made, tmp_path: Path) -> None:
    first, second = (thumbnails(top(short), tmp_path / name) for name in ("a", "b"))

    assert [a.path.read_bytes() for a in first] == [a.path.read_bytes() for a in second]


def test_nothing_is_left_of_a_cancelled_run(short: Made, tmp_path: Path) -> None:
    class Now:
        def check(self) -> None:
            raise Interrupted("cancelled")

    with pytest.raises(Interrupted):
        thumbnails(top(short), tmp_path, cancellation=Now())
    assert list(tmp_path.iterdir()) == []


def test_a_broken_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "720p.mp4").write_bytes(b"nothing")

    with pytest.raises(MediaUnreadable, match=r"720p\.mp4"):
        thumbnails(tmp_path / "720p.mp4", tmp_path / "out")
