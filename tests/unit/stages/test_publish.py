"""A job is published whole or not at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from stages.errors import Incomplete
from stages.metadata import metadata
from stages.publish import Published, expected, publish
from stages.thumbnails import thumbnails
from tests.unit.stages.conftest import Made
from tests.unit.stages.test_metadata import DRAWN


def published(name: str, data: bytes = b"x", media_type: str = "video/mp4") -> Published:
    value = hashlib.sha256(data).hexdigest()
    return Published(name, f"blobs/sha256/{value[:2]}/{value}", f"sha256:{value}", len(data), media_type)


FILES = [published(name, name.encode()) for name in expected(["720p", "1080p"])]


def test_what_the_stages_make_is_what_is_expected(long: Made, tmp_path: Path) -> None:
    artifacts = [
        *long.artifacts,
        *thumbnails(long.mp4s["1080p"], tmp_path),
        metadata("job_1", long.mp4s, DRAWN, tmp_path)[0],
    ]
    files = [published(a.name, a.path.read_bytes(), a.media_type) for a in artifacts]

    manifest = publish(files, long.rungs, tmp_path)

    lines = {line["name"]: line for line in json.loads(manifest.path.read_text())["artifacts"]}
    assert set(lines) == {a.name for a in artifacts}
    assert set(expected(long.rungs)) == set(lines) - {"hls/audio.m3u8", "hls/audio.mp4"}
    for artifact in artifacts:
        data = artifact.path.read_bytes()
        line = lines[artifact.name]
        assert line["sha256"] == hashlib.sha256(data).hexdigest()
        assert line["size"] == len(data)
        assert line["media_type"] == artifact.media_type
        assert line["key"].endswith(line["sha256"])


@pytest.mark.parametrize("missing", expected(["720p", "1080p"]))
def test_a_missing_artifact_is_named_and_nothing_is_written(missing: str, tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match="cannot be published") as raised:
        publish([file for file in FILES if file.name != missing], ["720p", "1080p"], tmp_path)

    assert raised.value.names == (missing,)
    assert list(tmp_path.iterdir()) == []


def test_two_artifacts_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"more than one storyboard\.vtt"):
        publish([*FILES, published("storyboard.vtt", b"other")], ["720p", "1080p"], tmp_path)


def test_an_empty_artifact_is_refused(tmp_path: Path) -> None:
    files = [replace(file, size=0) if file.name == "720p.mp4" else file for file in FILES]

    with pytest.raises(Incomplete, match=r"nothing is in 720p\.mp4"):
        publish(files, ["720p", "1080p"], tmp_path)


def test_the_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    first = publish(FILES, ["720p", "1080p"], tmp_path / "a")
    second = publish(FILES[::-1], ["720p", "1080p"], tmp_path / "b")

    assert first.path.read_bytes() == second.path.read_bytes()
