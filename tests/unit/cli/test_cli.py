"""The parts of the command that need no rendering."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from cli.console import EXIT_BUG, EXIT_FAILED, explain
from cli.export import export
from cli.progress import Lines
from cli.token import lifetime
from config.errors import ConfigError
from pipeline.errors import ObjectMissing
from pipeline.store.local import FileStore
from pipeline.vocabulary import ArtifactRef, Event, EventKind, Stage, now


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 7 * 86400)])
def test_a_lifetime(text: str, seconds: int) -> None:
    assert lifetime(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "-1h", "1.5h", "1h30m", "367d", "999999999d", "١h"])
def test_no_lifetime(text: str) -> None:
    with pytest.raises(ConfigError, match="1h"):
        lifetime(text)


def test_an_error_is_one_line_with_its_remedy() -> None:
    assert explain(ConfigError("a\nb.", remedy="Do c.")) == ("a b. Do c.", EXIT_FAILED)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")
    assert explain(full) == ("No space left on device (/data/x). Free some disk space.", EXIT_FAILED)
    assert explain(ZeroDivisionError("division")) == (
        "Unexpected ZeroDivisionError: division Run it again with --debug and report what it prints.",
        EXIT_BUG,
    )


def event(kind: EventKind, fraction: float | None = None) -> Event:
    return Event(id="e", job_id="j", kind=kind, stage=Stage.ENCODE, epoch=1, hop=0, n=0, at=now(), fraction=fraction)


def test_lines_come_each_quarter_with_an_eta() -> None:
    written: list[str] = []
    times = iter([0.0, 0.0, 1.0, 3.0, 4.0, 10.0])
    lines = Lines(written.append, lambda: next(times))
    lines.show(event(EventKind.PROGRESS, 0.0))
    lines.show(event(EventKind.PROGRESS, 0.1))
    lines.show(event(EventKind.PROGRESS, 0.3))
    lines.show(event(EventKind.FINISHED))
    assert written[0].startswith("encoding: 0%")
    assert written[1].startswith("encoding: 30%")
    assert "ETA" in written[1]
    assert written[2].startswith("encoding: 100%")
    assert "ETA" not in written[2]
    assert len(written) == 3


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def put(store: FileStore, tmp_path: Path, name: str, text: str) -> ArtifactRef:
    path = tmp_path / "source"
    path.write_text(text)
    return store.put_file(path, name, "text/plain")


def test_an_export_replaces_the_earlier_one_and_leaves_strangers_alone(store: FileStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    manifest = '{"artifacts": [{"name": "a.txt"}, {"name": "hls/1.txt"}]}'
    first = {"a.txt": "a", "hls/1.txt": "one", "manifest.json": manifest}
    export(store, [put(store, tmp_path, name, text) for name, text in first.items()], out)
    second = {"b.txt": "b", "hls/2.txt": "two", "manifest.json": "{}"}
    export(store, [put(store, tmp_path, name, text) for name, text in second.items()], out)
    found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == second | {"mine.txt": "mine"}


def test_a_failed_export_changes_nothing(store: FileStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    good = put(store, tmp_path, "a.txt", "a")
    lost = good.model_copy(update={"name": "b.txt", "key": good.key[:-1] + "x"})
    with pytest.raises(ObjectMissing):
        export(store, [good, lost], out)
    assert list(out.iterdir()) == []


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh Python has after running `code`."""
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    assert not loaded_by("import cli.main") & {"torch", "av", "aiohttp", "dramatiq", "sqlalchemy", "numpy"}


def test_the_gateway_imports_no_torch() -> None:
    loaded = loaded_by("import gateway.app, gateway.serve, cli.servers")
    assert "aiohttp" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "models.loader", "stages"}


def test_threads_that_were_left_in_torch_do_not_abort_the_command() -> None:
    code = (
        "import sys, threading, time, torch\n"
        "from cli import main\n"
        "@main.app.command()\n"
        "def leave():\n"
        "    grid = torch.ones(100, 100)\n"
        "    def compute():\n"
        "        while True:\n"
        "            grid @ grid\n"
        "    threading.Thread(target=compute, daemon=True).start()\n"
        "    time.sleep(0.3)\n"
        "    print('kept')\n"
        "    raise main.typer.Exit(130)\n"
        "sys.argv = ['t2m', 'leave']\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "kept\n", "")
