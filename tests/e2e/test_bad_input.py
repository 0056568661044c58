"""What a user gets for what cannot work: an exit code, one line that says what to do, and no half-made files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from models import weights
from tests.e2e.commands import T2M, environment, t2m
from tests.services import free_port

PROMPT = "a red ball"
pytestmark = pytest.mark.timeout(900)
SHORT = ("--duration", "1", "--quality", "720p", "--steps", "1")


def refusal(*arguments: object, env: Mapping[str, str] | None = None) -> str:
    """The one line of stderr."""
    done = t2m(*arguments, env=env)
    assert done.returncode not in (0, 70), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["  "], "prompt"),
        (["x" * 3000], "2000"),
        ([PROMPT, "--quality", "4k"], "'720p' or '1080p'"),
        ([PROMPT, "--duration", "0"], "duration"),
        ([PROMPT, "--duration", "61"], "60"),
        ([PROMPT, "--duration", "nan"], "duration"),
        ([PROMPT, "--fps", "0"], "fps"),
        ([PROMPT, "--aspect-ratio", "5:4"], "16:9"),
        ([PROMPT, "--seed", "-1"], "seed"),
        ([PROMPT, "--seed", str(2**32)], "seed"),
        ([PROMPT, "--model", "none"], "tiny"),
        ([PROMPT, "--steps", "0"], "steps"),
        ([PROMPT, "--guidance", "inf"], "guidance"),
    ],
)
def test_a_wrong_request_is_refused_with_what_is_accepted(tmp_path: Path, arguments: list[str], said: str) -> None:
    line = refusal("render", *arguments, "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_an_unwritable_out_is_refused_before_rendering(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert "--out" in refusal("render", PROMPT, "--data", tmp_path / "data", "--out", out)


def test_missing_ffmpeg(tmp_path: Path) -> None:
    env = {"IMAGEIO_FFMPEG_EXE": str(tmp_path / "none")}
    assert "ffmpeg" in refusal("render", PROMPT, "--data", tmp_path / "data", "--out", tmp_path / "out", env=env)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def other_weights(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the bundled weights under another model's name; its folder, and the settings that name it."""
    from config.catalogue import Catalogue
    from config.settings import ModelSettings

    bundled = Catalogue.load().get("tiny")
    folder = tmp_path / "weights" / "copy@1"
    shutil.copytree(weights.folder_of(bundled, ModelSettings()), folder)
    weights.write_lock(folder, "somebody/copy", "1")
    row = bundled.model_copy(update={"source": "somebody/copy", "revision": "1"})
    table = "\n".join(f"{key} = {_toml(value)}" for key, value in row.model_dump(mode="json", exclude={"name"}).items())
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(f"[copy]\n{table}\n")
    env = {
        "T2M_MODELS__CATALOGUE": str(catalogue),
        "T2M_MODELS__WEIGHTS": str(folder.parent),
        "T2M_MODELS__DEFAULT": "copy",
    }
    return folder, env


def _toml(value: object) -> str:
    """A TOML value of what a catalogue row holds; None is left to be left out by "none" rows, which have none."""
    if isinstance(value, dict):
        inner = ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items() if item is not None)
        return "{" + inner + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, (int, float, list)) else f'"{value}"'


@pytest.mark.long
def test_weights_that_are_cut_off_or_unreadable(tmp_path: Path, other_weights: tuple[Path, dict[str, str]]) -> None:
    folder, env = other_weights
    options = (*SHORT, "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert t2m("models", "verify", "copy", env=env).stdout == "copy: right\n"
    tensors = next((folder / "transformer").glob("*.safetensors"))
    good = tensors.read_bytes()
    tensors.write_bytes(good[:-1])
    assert "t2m models pull copy" in refusal("render", PROMPT, *options, env=env)
    tensors.write_bytes(b"\xff" * 64 + good[64:])
    done = t2m("render", PROMPT, *options, env=env)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "t2m models verify copy" in done.stderr.splitlines()[-1]
    assert "copy: wrong" in t2m("models", "verify", "copy", env=env).stdout
    shutil.rmtree(folder)
    assert "t2m models pull copy" in refusal("render", PROMPT, *options, env=env)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"T2M_BROKER__ULR": "amqp://x"}, "T2M_BROKER__URL"),
        ({"T2M_WORKER__GRACE_S": "soon"}, "worker.grace_s"),
        ({"T2M_CONFIG": "/nowhere/t2m.toml"}, "/nowhere/t2m.toml"),
        ({"T2M_MODELS__DEFAULT": "none"}, "Known models: tiny"),
        ({"T2M_MODELS__CATALOGUE": "/nowhere/models.toml"}, "/nowhere/models.toml"),
    ],
)
def test_wrong_settings(env: dict[str, str], said: str) -> None:
    assert said in refusal("config", "check", env=env)


def test_lost_servers_are_named_without_their_passwords(tmp_path: Path) -> None:
    port = free_port()
    base = {"T2M_DATA_DIR": str(tmp_path), "T2M_LOG__LEVEL": "ERROR"}
    broker = {**base, "T2M_BROKER__URL": f"amqp://guest:hunter22@127.0.0.1:{port}/"}
    line = refusal("worker", "--queues", "encode", env=broker)
    assert "RabbitMQ" in line
    assert "hunter22" not in line
    store = {
        "T2M_STORE__KIND": "s3", "T2M_STORE__ENDPOINT": f"127.0.0.1:{port}", "T2M_STORE__SECURE": "false",
        "T2M_STORE__ACCESS_KEY": "key", "T2M_STORE__SECRET_KEY": "hunter22",
    }  # fmt: skip
    line = refusal("gateway", env=broker | store)
    assert f"127.0.0.1:{port}" in line
    assert "hunter22" not in line


def test_separate_processes_need_a_broker_and_known_queues(tmp_path: Path) -> None:
    env = {"T2M_DATA_DIR": str(tmp_path)}
    assert "broker.url" in refusal("worker", "--queues", "encode", env=env)
    assert "broker.url" in refusal("gateway", env=env)
    assert "render.tiny" in refusal("worker", "--queues", "bake", env=env)


@pytest.mark.parametrize(
    "arguments", [("--user", " "), ("--user", "u", "--role", "king"), ("--user", "u", "--expires", "soon")]
)
def test_wrong_tokens(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refusal("token", "--data", tmp_path, *arguments)


def test_a_disk_that_fills_while_rendering(tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    out = tmp_path / "out"
    command = [T2M, "render", PROMPT, *SHORT, "--data", str(tmp_path / "data"), "--out", str(out)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, preexec_fn=small_files, timeout=200
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "disk space" in done.stderr.splitlines()[-1]
    assert list(out.iterdir()) == []


def test_doctor_finds_what_does_not_work(tmp_path: Path) -> None:
    good = t2m("doctor", "--data", tmp_path)
    assert good.returncode == 0, good.stdout
    env = {"IMAGEIO_FFMPEG_EXE": os.devnull, "T2M_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0"}
    bad = t2m("doctor", "--data", tmp_path, env=env)
    assert bad.returncode == 1
    failed = [line.split()[1] for line in bad.stdout.splitlines() if line.startswith("FAIL")]
    assert failed == ["ffmpeg", "redis"]
    assert "Traceback" not in bad.stdout + bad.stderr
    worker = t2m(
        "doctor", "--queues", "encode,publish", "--data", tmp_path, env={"T2M_REDIS__URL": env["T2M_REDIS__URL"]}
    )
    assert worker.returncode == 0, "workers need no Redis"
    assert not {"redis", "database", "weights"} & {line.split()[1] for line in worker.stdout.splitlines()}
    misspelt = t2m("doctor", "--queues", "encodee", "--data", tmp_path)
    assert misspelt.returncode == 1 and "encodee" in misspelt.stderr
    missing = t2m("doctor", "--queues", "render.wan2.1-1.3b", "--data", tmp_path)
    assert missing.returncode == 1
    assert "t2m models pull wan2.1-1.3b" in missing.stdout


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = t2m("render", PROMPT, "--quality", "4k", "--debug", "--data", tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
