"""The metadata says what is in the files."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from models.contract import Understood
from stages.errors import MediaUnreadable
from stages.metadata import Generation, metadata
from tests.unit.stages.conftest import Made

DRAWN = Generation(
    prompt="A beautiful sunset over mountains",
    negative_prompt="",
    model="tiny",
    model_revision="0.1.0",
    seed=12345,
    steps=24,
    guidance=4.0,
    created_at=datetime(2024, 1, 15, 11, 30, tzinfo=timezone(timedelta(hours=1))),
    native_width=112,
    native_height=63,
    native_fps=8.0,
    native_frames=41,
    understood=Understood(complete=False, text="sunset mountains", ignored=("beautiful",)),
)


def test_describes_the_top_rung_and_its_sound(long: Made, tmp_path: Path) -> None:
    _, content = metadata("job_1", long.mp4s, DRAWN, tmp_path)

    size = long.mp4s["1080p"].stat().st_size
    video, audio = content["video"], content["audio"]
    assert {key: video[key] for key in video if key not in ("bitrate", "duration")} == {
        "width": 1920, "height": 1080, "fps": 24, "codec": "h264", "format": "mp4", "file_size": size,
    }  # fmt: skip
    assert video["duration"] == pytest.approx(122 / 24, abs=1e-5)
    assert (audio["codec"], audio["sample_rate"], audio["channels"]) == ("aac", 48_000, 2)
    total = (video["bitrate"] + audio["bitrate"]) * video["duration"] / 8
    assert 0.94 * size < total < size  # the rest is the MP4's index
    assert isinstance(video["bitrate"], int)


def test_silence_is_null(short: Made, tmp_path: Path) -> None:
    assert metadata("job_1", short.mp4s, DRAWN, tmp_path)[1]["audio"] is None


def test_tells_how_it_was_drawn(short: Made, tmp_path: Path) -> None:
    _, content = metadata("job_1", short.mp4s, DRAWN, tmp_path)

    assert content["job_id"] == "job_1"
    assert content["generation"] == {
        "prompt": "A beautiful sunset over mountains",
        "negative_prompt": "",
        "model": "tiny",
        "model_revision": "0.1.0",
        "seed": 12345,
        "steps": 24,
        "guidance": 4.0,
        "created_at": "2024-01-15T10:30:00Z",
        "native": {"width": 112, "height": 63, "fps": 8, "frames": 41},
        "exact": True,
        "upscaled": True,
        "understood": {"complete": False, "text": "sunset mountains", "ignored": ["beautiful"]},
    }


def test_a_clip_drawn_at_full_size_is_not_called_upscaled(short: Made, tmp_path: Path) -> None:
    drawn = replace(DRAWN, native_width=1280, native_height=720, created_at=datetime.now(UTC))

    assert metadata("job_1", short.mp4s, drawn, tmp_path)[1]["generation"]["upscaled"] is False


def test_lists_every_rendition(long: Made, tmp_path: Path) -> None:
    _, content = metadata("job_1", long.mp4s, DRAWN, tmp_path)

    assert [(each["name"], each["width"], each["height"]) for each in content["renditions"]] == [
        ("720p", 1280, 720),
        ("1080p", 1920, 1080),
    ]
    assert [each["file_size"] for each in content["renditions"]] == [p.stat().st_size for p in long.mp4s.values()]


def test_the_file_is_the_content(short: Made, tmp_path: Path) -> None:
    artifact, content = metadata("job_1", short.mp4s, DRAWN, tmp_path)

    assert (artifact.name, artifact.media_type) == ("metadata.json", "application/json")
    assert json.loads((tmp_path / "metadata.json").read_text()) == content


def test_a_broken_rendition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "720p.mp4").write_bytes(b"nothing")

    with pytest.raises(MediaUnreadable, match=r"720p\.mp4"):
        metadata("job_1", {"720p": tmp_path / "720p.mp4"}, DRAWN, tmp_path / "out")
