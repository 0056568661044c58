"""`t2m render` as a user runs it: every promised file, decoded; the same bytes for the same seed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import av
import m3u8
import numpy as np
import pytest
from PIL import Image

from tests.conformance import document
from tests.conformance.test_endpoints import differences
from tests.e2e.commands import T2M, environment, t2m
from tests.e2e.media import boxes, frame_times, sha256, stream_hash

PROMPT = "A beautiful sunset over mountains"
SECONDS, FPS = 2, 24
pytestmark = pytest.mark.timeout(900)
RUNGS = {"720p": (1280, 720), "1080p": (1920, 1080)}


@dataclass
class Run:
    out: Path
    stdout: str
    stderr: str


def render(folder: Path, *options: object) -> Run:
    out = folder / "out"
    done = t2m("render", PROMPT, "--data", folder / "data", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return Run(out, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("embedded")
    return render(folder, "--duration", SECONDS, "--quality", "1080p", "--seed", 12345, "--steps", 6)


def test_the_folder_holds_what_was_promised_and_nothing_else(run: Run) -> None:
    assert {path.name for path in run.out.iterdir()} == {
        "720p.mp4", "1080p.mp4", "hls", "poster-small.jpg", "poster-medium.jpg", "poster-large.jpg",
        "storyboard.jpg", "storyboard.vtt", "metadata.json", "manifest.json",
    }  # fmt: skip
    assert str(run.out / "1080p.mp4") in run.stdout.splitlines()
    assert str(run.out / "hls" / "master.m3u8") in run.stdout.splitlines()


def test_metadata_has_every_field_of_the_document(run: Run) -> None:
    (example,) = next(one.answers for one in document.endpoints() if one.path == "/videos/{job_id}/metadata")
    made = json.loads((run.out / "metadata.json").read_text())
    assert differences(example["data"], made, {"audio"}) == [], "audio may be null: the video has none"


def test_progress_goes_through_all_stages_with_an_eta(run: Run) -> None:
    lines = run.stderr.splitlines()
    for stage in ("rendering", "encoding", "thumbnails", "metadata", "publishing"):
        assert any(line.startswith(f"{stage}: 100%") for line in lines)
    assert any("ETA" in line for line in lines)


@pytest.mark.parametrize("rung", RUNGS)
def test_mp4(run: Run, rung: str) -> None:
    path = run.out / f"{rung}.mp4"
    with av.open(path) as container:
        video = container.streams.video[0]
        context = video.codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert (context.width, context.height) == RUNGS[rung]
        assert video.average_rate == FPS
        assert {context.color_primaries, context.color_trc, context.colorspace} == {1}  # bt709 in H.273
        assert not container.streams.audio
    kinds = boxes(path)
    assert kinds.index("moov") < kinds.index("mdat")
    times, keys = frame_times(path)
    assert times == pytest.approx([n / FPS for n in range(SECONDS * FPS)], abs=1e-3)
    assert keys[0] == 0
    assert max(np.diff([*keys, SECONDS])) <= 2.001
    assert keys == frame_times(run.out / "720p.mp4")[1]


def test_hls_is_the_same_encode(run: Run) -> None:
    master = m3u8.load(str(run.out / "hls" / "master.m3u8"))
    assert master.is_variant
    assert master.is_independent_segments
    assert len(master.iframe_playlists) == len(RUNGS)
    assert len(master.playlists) == len(RUNGS)
    for playlist in master.playlists:
        info = playlist.stream_info
        rung = next(name for name, size in RUNGS.items() if size == tuple(info.resolution))
        assert info.codecs.startswith("avc1.64")
        assert float(info.frame_rate) == FPS
        media_path = run.out / "hls" / playlist.uri
        media = m3u8.load(str(media_path))
        assert media.is_independent_segments or master.is_independent_segments
        assert all(segment.duration <= 6.0 for segment in media.segments)
        assert sum(segment.duration for segment in media.segments) == pytest.approx(SECONDS, abs=0.01)
        sizes = [int(segment.byterange.split("@")[0]) for segment in media.segments]
        assert info.average_bandwidth == pytest.approx(sum(sizes) * 8 / SECONDS, rel=0.02)
        assert info.bandwidth >= info.average_bandwidth
        assert stream_hash(media_path) == stream_hash(run.out / f"{rung}.mp4")


def test_posters_show_a_frame_of_the_video(run: Run) -> None:
    for name, width in (("small", 320), ("medium", 640), ("large", 1280)):
        with Image.open(run.out / f"poster-{name}.jpg") as poster:
            assert (poster.format, poster.size) == ("JPEG", (width, width * 9 // 16))
            assert np.asarray(poster.convert("L")).std() > 2
    with Image.open(run.out / "poster-large.jpg") as poster, av.open(run.out / "1080p.mp4") as container:
        wanted = np.asarray(poster.convert("RGB").resize((320, 180)), dtype=float)
        frames = (np.asarray(f.to_image().resize((320, 180)), dtype=float) for f in container.decode(video=0))
        assert min(np.abs(frame - wanted).mean() for frame in frames) < 4


def test_storyboard_cues_lie_within_the_sheet_and_cover_the_clip(run: Run) -> None:
    text = (run.out / "storyboard.vtt").read_text()
    assert text.startswith("WEBVTT")
    cues = re.findall(r"(\S+) --> (\S+)\n(\S+?)#xywh=(\d+),(\d+),(\d+),(\d+)", text)
    assert cues
    with Image.open(run.out / "storyboard.jpg") as sheet:
        for _, _, name, *box in cues:
            x, y, width, height = map(int, box)
            assert name == "storyboard.jpg"
            assert x + width <= sheet.width
            assert y + height <= sheet.height
    ends = [sum(float(part) * 60**i for i, part in enumerate(reversed(end.split(":")))) for _, end, *_ in cues]
    assert ends[-1] == pytest.approx(SECONDS, abs=0.05)


def test_metadata_is_what_the_files_hold(run: Run) -> None:
    data = json.loads((run.out / "metadata.json").read_text())
    with av.open(run.out / "1080p.mp4") as container:
        stream = container.streams.video[0]
        video = data["video"]
        assert (video["width"], video["height"], video["fps"]) == (stream.width, stream.height, stream.average_rate)
        assert video["duration"] == pytest.approx(SECONDS)
        assert video["file_size"] == (run.out / "1080p.mp4").stat().st_size
        assert (video["codec"], video["format"]) == ("h264", "mp4")
    assert data["audio"] is None
    generation = data["generation"]
    assert (generation["prompt"], generation["seed"], generation["model"]) == (PROMPT, 12345, "tiny")
    assert generation["created_at"].endswith("Z")
    assert set(generation["native"]) == {"width", "height", "fps", "frames"}
    assert generation["upscaled"] is True


def test_the_manifest_lists_every_file_with_its_digest(run: Run) -> None:
    listed = {item["name"]: item for item in json.loads((run.out / "manifest.json").read_text())["artifacts"]}
    files = {str(path.relative_to(run.out)) for path in run.out.rglob("*") if path.is_file()}
    assert set(listed) == files - {"manifest.json"}
    for name, item in listed.items():
        path = run.out / name
        assert item["size"] == path.stat().st_size
        assert item["sha256"].removeprefix("sha256:") == sha256(path)
        assert item["media_type"]
        assert item["key"].endswith(sha256(path))


@pytest.mark.long
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    options = ("--duration", 1, "--quality", "720p", "--steps", 2, "--seed")
    first = render(tmp_path / "a", *options, 7).out / "720p.mp4"
    again = render(tmp_path / "b", *options, 7).out / "720p.mp4"
    other = render(tmp_path / "c", *options, 8).out / "720p.mp4"
    assert sha256(first) == sha256(again)
    assert sha256(first) != sha256(other)


@pytest.mark.long
def test_a_second_render_replaces_the_first_whole(tmp_path: Path) -> None:
    render(tmp_path, "--duration", 1, "--quality", "1080p", "--steps", 1)
    run = render(tmp_path, "--duration", 1, "--quality", "720p", "--steps", 1)
    assert not (run.out / "1080p.mp4").exists()
    assert not list((run.out / "hls").glob("1080p*"))
    test_the_manifest_lists_every_file_with_its_digest(run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_render_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    command = [T2M, "render", PROMPT, "--duration", "30", "--data", str(tmp_path / "data"), "--out", str(out)]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell job ignores it
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("rendering: 0%"):
            break
    time.sleep(1)
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert list(out.iterdir()) == []
