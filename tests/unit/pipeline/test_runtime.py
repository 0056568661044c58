from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import ConfigError
from pipeline.runtime import by_class, sweep
from pipeline.topology import QueueClass, all_queues
from pipeline.worker import check


def test_queues_are_grouped_by_the_process_they_share():
    groups = by_class(["encode", "render.a", "publish", "render.b", "encode"], ["a", "b"])
    assert groups == {
        QueueClass.ENCODE: ("encode",),
        QueueClass.RENDER: ("render.a", "render.b"),
        QueueClass.LIGHT: ("publish",),
    }


@pytest.mark.parametrize("queues", [["render.c"], ["encode", "rendering"], []])
def test_unknown_queues_are_refused_with_the_known_ones(queues: list[str]):
    with pytest.raises(ConfigError, match=r"Known: render\.a, encode, thumbnails, metadata, publish"):
        by_class(queues, ["a"])


def test_every_model_has_its_render_queue():
    assert all_queues(["a", "b"]) == ("render.a", "render.b", "encode", "thumbnails", "metadata", "publish")


def test_only_what_dead_processes_left_is_swept(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    (tmp_path / f"{gone.pid}-abc").mkdir()
    (tmp_path / f"{os.getpid()}-abc").mkdir()
    (tmp_path / "notes-abc").mkdir()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"{os.getpid()}-abc", "notes-abc"])


def test_a_worker_refuses_a_broker_that_other_processes_cannot_reach(t2m_settings):
    with pytest.raises(ConfigError, match=r"broker\.url"):
        check(t2m_settings(), ["encode"])


def test_neither_the_light_nor_the_sending_side_loads_torch():
    code = "import sys, pipeline.worker_child, pipeline.dispatch, pipeline.embedded; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
