from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import ConfigError
from pipeline import scratch
from pipeline.runtime import by_class
from pipeline.topology import LANES, QueueClass, all_queues
from pipeline.vocabulary import Stage
from pipeline.worker import check
from stages import encode, hls


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


def test_an_encode_that_takes_too_long_is_stopped_by_its_own_limits_which_tell_why():
    assert LANES[Stage.ENCODE].time_limit_s > encode.TIME_LIMIT_S + hls.TIME_LIMIT_S


def test_only_what_dead_processes_left_is_swept(tmp_path: Path):
    dies = "import os, sys; from pathlib import Path; from pipeline import scratch\n"
    dies += "with scratch.folder(Path(sys.argv[1])) as made: (made / 'file').touch(); os._exit(0)"
    subprocess.run([sys.executable, "-c", dies, str(tmp_path)], check=True)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch.folder(tmp_path) as mine:
        (tmp_path / "notes").touch()
        scratch.sweep(tmp_path)
        assert set(tmp_path.iterdir()) == {mine, tmp_path / "notes"}
    assert set(tmp_path.iterdir()) == {tmp_path / "notes"}


def test_a_worker_that_starts_again_has_another_name():
    """As in a container, where host name and process ids are the same again."""
    asks = "import os, socket; os.getpid = lambda: 7; socket.gethostname = lambda: 'host'\n"
    asks += "from pipeline.runtime import worker_id; assert worker_id() == worker_id(); print(worker_id())"
    names = [subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True).stdout for _ in range(2)]
    assert all(name.startswith("host-7-") for name in names) and names[0] != names[1]


def test_a_worker_refuses_a_broker_that_other_processes_cannot_reach(t2m_settings):
    with pytest.raises(ConfigError, match=r"broker\.url"):
        check(t2m_settings(), ["encode"])


def test_neither_the_light_nor_the_sending_side_loads_torch():
    code = "import sys, pipeline.worker_child, pipeline.dispatch, pipeline.embedded; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
