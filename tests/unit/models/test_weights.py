"""Weights: locked by size and sha256, pulled at a commit, mirrored, and every damage named."""

from __future__ import annotations

import errno
import json
import os
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

from config.catalogue import Catalogue, ModelEntry
from config.settings import ModelSettings
from models import loader, weights
from models.contract import ClipSpec
from models.errors import DeviceUnavailable, GpuFailed, WeightsCorrupt, WeightsMissing, WeightsUnavailable
from models.families import wan
from tests.unit.models import shrunken
from tests.unit.models.hub import Hub

Saved = tuple[ModelEntry, Path, ModelSettings]
TENSORS = "transformer/diffusion_pytorch_model.safetensors"


def flip(path: Path, position: int = -1) -> None:
    """Change one bit, keep the size."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing loaded by one test may serve another."""
    monkeypatch.setattr(loader, "_loaded", {})


class Folder:
    """A store of weights that is a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []

    def put(self, name: str, path: Path) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.root / name)
        self.names.append(name)

    def get(self, name: str, path: Path) -> None:
        shutil.copyfile(self.root / name, path)


def test_whole_weights_pass(saved_wan: Saved) -> None:
    entry, folder, settings = saved_wan
    told: list[str] = []
    weights.check(entry, folder, told=lambda name, size: told.append(name))
    assert TENSORS in told
    assert "model_index.json" in told
    assert weights.locate(entry, settings) == folder


def test_a_flipped_bit_is_found_and_named(saved_wan: Saved) -> None:
    entry, folder, _ = saved_wan
    flip(folder / TENSORS)
    with pytest.raises(WeightsCorrupt, match=r"diffusion_pytorch_model.safetensors .*sha256.*t2m models pull own"):
        weights.check(entry, folder)


def test_a_cut_file_stops_loading(saved_wan: Saved) -> None:
    entry, folder, settings = saved_wan
    content = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(content[:-100])
    with pytest.raises(WeightsCorrupt, match=f"{len(content) - 100} bytes, not {len(content)}"):
        loader.load(entry, settings)


def test_a_damaged_header_is_no_traceback_of_a_library(saved_wan: Saved) -> None:
    """The size is right, so only reading the tensors finds it."""
    entry, folder, settings = saved_wan
    flip(folder / TENSORS, 9)
    with pytest.raises(WeightsCorrupt, match="cannot be loaded"):
        loader.load(entry, settings)


@pytest.mark.parametrize("name", [TENSORS, "model_index.json", weights.LOCK])
def test_a_missing_file_is_missing(saved_wan: Saved, name: str) -> None:
    entry, folder, settings = saved_wan
    (folder / name).unlink()
    with pytest.raises(WeightsMissing, match="t2m models pull own"):
        loader.load(entry, settings)


def test_weights_that_were_never_pulled_are_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="t2m models pull"):
        loader.load(Catalogue.load().get("wan2.1-14b"), ModelSettings(weights=str(tmp_path), device="cpu"))


def test_another_revision_is_refused(saved_wan: Saved) -> None:
    entry, folder, _ = saved_wan
    other = entry.model_copy(update={"revision": "1" * 40})
    with pytest.raises(WeightsCorrupt, match="at 0000"):
        weights.check(other, folder)


@pytest.mark.parametrize("content", ["not json", json.dumps({"source": "s", "revision": "r", "files": {"../x": {}}})])
def test_an_unreadable_lock_is_corrupt(saved_wan: Saved, content: str) -> None:
    entry, folder, _ = saved_wan
    (folder / weights.LOCK).write_text(content)
    with pytest.raises(WeightsCorrupt, match="cannot be read"):
        weights.check(entry, folder)


def test_a_lock_cannot_point_outside_its_folder(saved_wan: Saved) -> None:
    entry, folder, _ = saved_wan
    lock = weights.read_lock(entry, folder)
    escaped = lock.model_copy(update={"files": {"../outside": next(iter(lock.files.values()))}})
    (folder / weights.LOCK).write_text(escaped.model_dump_json())
    with pytest.raises(WeightsCorrupt, match="outside"):
        weights.check(entry, folder)


@pytest.mark.parametrize(
    ("tensors", "pickle"),
    [
        (TENSORS, "transformer/diffusion_pytorch_model.bin"),
        ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
    ],
)
def test_pickled_weights_are_never_read(saved_wan: Saved, tensors: str, pickle: str) -> None:
    """A folder whose tensors are a pickle is refused, though diffusers and transformers could read it."""
    entry, folder, settings = saved_wan
    torch.save(load_file(folder / tensors), folder / pickle)
    (folder / tensors).unlink()
    weights.write_lock(folder, entry.source, entry.revision)
    with pytest.raises(WeightsCorrupt, match="cannot be loaded"):
        loader.load(entry, settings)


def test_a_model_is_loaded_once(saved_wan: Saved) -> None:
    entry, folder, settings = saved_wan
    model = loader.load(entry, settings)
    shutil.rmtree(folder)
    assert loader.load(entry, settings) is model


def test_a_gpu_that_is_not_there_is_a_resource_fault(saved_wan: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, _, settings = saved_wan
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="finds none") as caught:
        loader.load(entry, settings.model_copy(update={"device": "cuda"}))
    assert caught.value.fault == "resource"


@pytest.mark.parametrize(
    ("error", "becomes", "fault"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), GpuFailed, "resource"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), WeightsUnavailable, "transient"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), WeightsUnavailable, "transient"),
        (OSError("no file named model_index.json"), WeightsCorrupt, "permanent"),
    ],
)
def test_what_is_not_the_weights_fault_is_not_called_corrupt(
    saved_wan: Saved, monkeypatch: pytest.MonkeyPatch, error: Exception, becomes: type[Exception], fault: str
) -> None:
    entry, _, settings = saved_wan

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(wan, "load", fail)
    with pytest.raises(becomes) as caught:
        loader.load(entry, settings)
    assert type(caught.value) is becomes
    assert caught.value.fault == fault  # type: ignore[attr-defined]


def test_a_second_model_on_a_gpu_takes_the_place_of_the_first(
    saved_wan: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, folder, settings = saved_wan
    second = entry.model_copy(update={"name": "second"})
    shutil.copytree(folder, folder.with_name(f"second@{second.revision}"))
    told: list[str] = []

    class Loaded:
        def __init__(self, entry: ModelEntry, folder: Path, device: str) -> None:
            self.itself = self  # as modules that know each other
            weakref.finalize(self, told.append, f"{entry.name} freed")
            told.append(f"{entry.name} on {device}")

    monkeypatch.setattr(loader, "_load", Loaded)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: told.append("memory given back"))
    on_gpu = settings.model_copy(update={"device": "cuda"})
    loader.load(entry, on_gpu)
    loader.load(entry, on_gpu)
    loader.load(second, on_gpu)
    assert told == ["memory given back", "own on cuda", "own freed", "memory given back", "second on cuda"]


def test_the_row_decides_dtype_and_shift(tmp_path: Path) -> None:
    entry = shrunken.entry("wan", name="half", dtype="bfloat16", flow_shift=7.0)
    shrunken.save(shrunken.wan(), entry, tmp_path)
    model = loader.load(entry, ModelSettings(weights=str(tmp_path), device="cpu"))
    pipeline = model._family.pipeline  # type: ignore[attr-defined]
    assert pipeline.transformer.dtype == pipeline.text_encoder.dtype == torch.bfloat16
    assert pipeline.transformer.scale_shift_table.dtype == torch.float32, "norms and tables stay in float32"
    assert pipeline.vae.dtype == torch.float32
    assert pipeline.scheduler.config.flow_shift == 7.0
    frames = [chunk.frames for chunk in model.generate(ClipSpec("a ball", 64, 32, 5, seed=1, steps=1, guidance=2.0))]
    assert sum(map(len, frames)) == 5


def test_a_mirror_gives_back_what_was_put(saved_wan: Saved, tmp_path: Path) -> None:
    entry, folder, settings = saved_wan
    store = Folder(tmp_path / "store")
    weights.upload(entry, settings, store)
    assert store.names[-1].endswith(weights.LOCK), "the lock marks it as complete, so it comes last"
    away = ModelSettings(weights="s3://bucket/weights", cache=tmp_path / "cache", device="cpu")
    fetched = weights.fetch(entry, away, store)
    assert fetched == tmp_path / "cache" / folder.name
    weights.check(entry, fetched)
    assert loader.load(entry, away).entry is entry


def test_a_mirror_that_lies_is_found_out(saved_wan: Saved, tmp_path: Path) -> None:
    entry, folder, settings = saved_wan
    store = Folder(tmp_path / "store")
    weights.upload(entry, settings, store)
    flip(tmp_path / "store" / folder.name / TENSORS)
    away = ModelSettings(weights="s3://bucket/weights", cache=tmp_path / "cache")
    with pytest.raises(WeightsCorrupt, match="sha256"):
        weights.fetch(entry, away, store)
    with pytest.raises(WeightsMissing):
        weights.locate(entry, away)


def test_a_mirror_without_the_model_says_so(saved_wan: Saved, tmp_path: Path) -> None:
    away = ModelSettings(weights="s3://bucket/weights", cache=tmp_path / "cache")
    with pytest.raises(WeightsMissing, match="store"):
        weights.fetch(saved_wan[0], away, Folder(tmp_path / "empty"))


BESIDE = ("README.md", "all-in-one.safetensors", "transformer/model.bin", "upsampler/model.safetensors")


def repository(saved: Saved) -> Hub:
    """The saved pipeline as a hub repository, with files beside it that must not be pulled."""
    entry, folder, _ = saved
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del files[weights.LOCK]
    return Hub(entry.source, entry.revision, files | dict.fromkeys(BESIDE, b"not needed"))


def test_pulling_takes_the_pinned_commit_and_locks_it(saved_wan: Saved, tmp_path: Path) -> None:
    entry, _, _ = saved_wan
    hub = repository(saved_wan)
    settings = ModelSettings(weights=str(tmp_path / "pulled"), device="cpu")
    with hub.serving() as address:
        folder = weights.pull(entry, settings, hub=HfApi(endpoint=address))
    weights.check(entry, folder)
    assert not set(BESIDE) & set(hub.delivered)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert loader.load(entry, settings).entry is entry


def test_pulling_again_downloads_nothing(saved_wan: Saved) -> None:
    entry, folder, settings = saved_wan
    assert weights.pull(entry, settings, hub=HfApi(endpoint="http://127.0.0.1:9")) == folder


def test_a_damaged_download_is_refused_and_can_go_on(saved_wan: Saved, tmp_path: Path) -> None:
    entry, _, _ = saved_wan
    hub = repository(saved_wan)
    hub.damaged = {TENSORS}
    settings = ModelSettings(weights=str(tmp_path / "pulled"))
    with hub.serving() as address:
        with pytest.raises(WeightsCorrupt, match="damaged"):
            weights.pull(entry, settings, hub=HfApi(endpoint=address))
        with pytest.raises(WeightsMissing):
            weights.locate(entry, settings)
        hub.damaged, hub.delivered = set(), []
        weights.check(entry, weights.pull(entry, settings, hub=HfApi(endpoint=address)))
    assert hub.delivered == [TENSORS]


def test_a_commit_the_hub_does_not_have_is_unavailable(saved_wan: Saved, tmp_path: Path) -> None:
    hub = repository(saved_wan)
    entry = saved_wan[0].model_copy(update={"revision": "2" * 40})
    with hub.serving() as address, pytest.raises(WeightsUnavailable, match="cannot be downloaded"):
        weights.pull(entry, ModelSettings(weights=str(tmp_path / "pulled")), hub=HfApi(endpoint=address))


def test_no_network_is_a_transient_fault(saved_wan: Saved, tmp_path: Path) -> None:
    settings = ModelSettings(weights=str(tmp_path / "pulled"))
    with pytest.raises(WeightsUnavailable) as caught:
        weights.pull(saved_wan[0], settings, hub=HfApi(endpoint="http://127.0.0.1:9"))
    assert caught.value.fault == "transient"


def test_the_listing_tells_what_is_here(saved_wan: Saved) -> None:
    entry, folder, settings = saved_wan
    gone = entry.model_copy(update={"name": "gone"})
    here, missing = weights.listing(Catalogue({"own": entry, "gone": gone}), settings)
    assert (here.presence, here.folder) == (weights.Presence.PRESENT, folder)
    assert (
        here.size
        == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        - (folder / weights.LOCK).stat().st_size
    )
    assert (missing.presence, missing.size) == (weights.Presence.MISSING, 0)
