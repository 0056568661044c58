"""A clip that goes on from a snapshot has the bits of one that was drawn in a single run."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from config.catalogue import Catalogue
from config.settings import ModelSettings
from models import loader
from models.contract import ClipSpec, Interrupted, Take
from models.denoise import DenoisingState
from models.errors import SnapshotRefused
from models.model import LoadedModel
from models.snapshot import HEADER, Snapshot
from tests.unit.models.conftest import ROWS

Models = Callable[[str], LoadedModel]
STEPS = 5
SPEC = ClipSpec(prompt="a red ball", width=64, height=32, frames=9, seed=7, steps=STEPS, guidance=4.0)
SUNSET = ClipSpec("a beautiful sunset over mountains", 112, 63, frames=29, seed=12345, steps=STEPS, guidance=4.0)
FAMILIES = (*ROWS, "tiny")


class StopAt:
    """`Checkpoints` that end the run after `step` steps in all, with what was to be kept there."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.kept = b""

    def offer(self, done: int, total: int, take: Take) -> None:
        if done == self._step:
            self.kept = take().to_bytes()
            raise Interrupted("lease")


class Count:
    """`Checkpoints` that count the steps."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def offer(self, done: int, total: int, take: Take) -> None:
        self.done.append(done)


@pytest.fixture(scope="module")
def any_model(models: Models) -> Callable[[str], LoadedModel]:
    """A shrunken model, or the bundled one."""

    def get(name: str) -> LoadedModel:
        if name != "tiny":
            return models(name)
        model = loader.load(Catalogue.load().get("tiny"), ModelSettings(device="cpu"))
        assert isinstance(model, LoadedModel)
        return model

    return get


def spec_of(name: str) -> ClipSpec:
    """Two windows where there may be several, else one."""
    return SUNSET if name == "tiny" else replace(SPEC, frames=29 if name == "long" else 9)


def steps_of(name: str) -> int:
    return STEPS * (2 if name in ("tiny", "long") else 1)


def everything(model: LoadedModel, spec: ClipSpec, data: bytes = b"", count: Count | None = None) -> list[NDArray]:
    """Frames and sound, from the start or from a snapshot."""
    resume = model.restore(data, spec) if data else None
    chunks = list(model.generate(spec, checkpoints=count or Count(), resume=resume))
    sound = [chunk.audio for chunk in chunks if chunk.audio is not None]
    return [np.concatenate([chunk.frames for chunk in chunks]), *sound]


def stopped(model: LoadedModel, spec: ClipSpec, step: int) -> bytes:
    at = StopAt(step)
    with pytest.raises(Interrupted, match="lease"):
        list(model.generate(spec, checkpoints=at))
    return at.kept


def points() -> Iterator[object]:
    """Two per family, and with `-m long` all others: also those after the last step, where only decoding is left."""
    for name in FAMILIES:
        total = steps_of(name)
        for step in range(1, total + 1):
            chosen = step in (2, total - 1)
            yield pytest.param(name, step, marks=[] if chosen else [pytest.mark.long])


@pytest.mark.parametrize(("name", "step"), list(points()))
def test_a_resumed_clip_is_bit_identical_and_repeats_no_step(any_model: Models, name: str, step: int) -> None:
    model, spec = any_model(name), spec_of(name)
    whole = everything(model, spec)
    data = stopped(model, spec, step)
    everything(model, replace(spec, seed=99))  # whatever the model still holds of the first run is gone
    count = Count()
    for resumed, expected in zip(everything(model, spec, data, count), whole, strict=True):
        np.testing.assert_array_equal(resumed, expected)
    assert count.done == list(range(step + 1, steps_of(name) + 1))
    assert model.restore(data, spec).exact


@pytest.mark.parametrize("name", ["wan", "wan-moe", "cogvideox"])
def test_without_the_history_of_the_scheduler_the_clip_differs(any_model: Models, name: str) -> None:
    """The control: what the snapshot holds beside the latents is needed."""
    model, spec = any_model(name), spec_of(name)
    snapshot = model.restore(stopped(model, spec, 2), spec)
    scheduler = snapshot.body["loop"]["scheduler"]
    if name == "cogvideox":
        scheduler["clean"] = None
    else:
        scheduler |= {"model_outputs": [None, None], "lower_order_nums": 0, "last_sample": None}
    resumed = np.concatenate([chunk.frames for chunk in model.generate(spec, resume=snapshot)])
    assert not np.array_equal(resumed, everything(model, spec)[0])


def test_a_snapshot_can_be_taken_while_the_clip_goes_on(any_model: Models) -> None:
    """It shares no memory with the loop, whose later steps would otherwise be in it."""
    kept: list[Snapshot] = []

    class Keep:
        def offer(self, done: int, total: int, take: Take) -> None:
            if done == 2:
                kept.append(take())  # type: ignore[arg-type]

    model = any_model("wan")
    list(model.generate(SPEC, checkpoints=Keep()))
    assert kept[0].to_bytes() == stopped(model, SPEC, 2)


def test_a_resumed_clip_can_be_stopped_and_resumed_again(any_model: Models) -> None:
    model, spec = any_model("long"), spec_of("long")
    data = stopped(model, spec, 3)
    for step in (4, 6, 9):
        at = StopAt(step)
        with pytest.raises(Interrupted):
            list(model.generate(spec, checkpoints=at, resume=model.restore(data, spec)))
        data = at.kept
    np.testing.assert_array_equal(everything(model, spec, data)[0], everything(model, spec)[0])


def test_progress_goes_on_where_it_was(any_model: Models) -> None:
    model, spec = any_model("long"), spec_of("long")
    told: list[float] = []
    snapshot = model.restore(stopped(model, spec, 7), spec)
    list(model.generate(spec, lambda fraction, message="", **details: told.append(fraction), resume=snapshot))
    assert told == sorted(told)
    assert told[0] == pytest.approx(0.9 * 7 / 10)


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"frames": 10}, {"steps": 6}, {"prompt": "a blue sky"}, {"guidance": 3.0}]
)
def test_a_snapshot_of_other_work_is_refused(any_model: Models, change: dict[str, object]) -> None:
    model = any_model("wan")
    data = stopped(model, SPEC, 2)
    with pytest.raises(SnapshotRefused, match=next(iter(change))):
        model.restore(data, replace(SPEC, **change))


def test_a_snapshot_of_another_model_is_refused(any_model: Models) -> None:
    with pytest.raises(SnapshotRefused, match="model"):
        any_model("wan-ti2v").restore(stopped(any_model("wan"), SPEC, 2), SPEC)


@pytest.mark.parametrize("change", [{"format": 2}, {"torch": "1.0"}])
def test_a_snapshot_of_another_release_is_refused(any_model: Models, change: dict[str, object]) -> None:
    model = any_model("wan")
    snapshot = model.restore(stopped(model, SPEC, 2), SPEC)
    body = (
        {**snapshot.body, "work": {**snapshot.body["work"], **change}} if "torch" in change else snapshot.body | change
    )
    with pytest.raises(SnapshotRefused, match=next(iter(change))):
        model.restore(Snapshot(body, snapshot.tensors).to_bytes(), SPEC)


@pytest.mark.parametrize("data", [b"", b"no snapshot", b"\x80\x04K\x01.", bytes(8)])
def test_what_is_no_snapshot_is_refused(any_model: Models, data: bytes) -> None:
    with pytest.raises(SnapshotRefused, match="cannot be read"):
        any_model("wan").restore(data, SPEC)


def test_a_cut_snapshot_is_refused(any_model: Models) -> None:
    model = any_model("wan")
    with pytest.raises(SnapshotRefused, match="cannot be read"):
        model.restore(stopped(model, SPEC, 2)[:-1], SPEC)


def test_elsewhere_the_clip_goes_on_but_is_not_called_exact(any_model: Models) -> None:
    model = any_model("wan")
    snapshot = model.restore(stopped(model, SPEC, 2), SPEC)
    elsewhere = Snapshot({**snapshot.body, "place": {"device": "another GPU"}}, snapshot.tensors).to_bytes()
    moved = model.restore(elsewhere, SPEC)
    assert snapshot.exact
    assert not moved.exact
    at = StopAt(4)
    with pytest.raises(Interrupted):
        list(model.generate(SPEC, checkpoints=at, resume=moved))
    assert not model.restore(at.kept, SPEC).exact, "it stays so when it comes back"


def test_a_snapshot_is_tensors_and_json(any_model: Models) -> None:
    data = stopped(any_model("cogvideox"), SPEC, 2)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert json.loads(header["__metadata__"][HEADER])["step"] == 2
    assert all(isinstance(tensor, torch.Tensor) for tensor in Snapshot.from_bytes(data).tensors.values())


class DrainAfter:
    """A cancellation that comes with the first step, as a drain."""

    def __init__(self) -> None:
        self.heard = False

    def __call__(self, fraction: float, message: str = "", **details: object) -> None:
        self.heard = True

    def check(self) -> None:
        if self.heard:
            raise Interrupted("drain")


def test_a_drain_does_not_wait_for_the_step_in_hand(any_model: Models) -> None:
    """A step may take longer than the grace period; the message is handed back meanwhile."""
    model = any_model("wan")
    go = threading.Event()
    calls: list[int] = []

    def wait(*_: object) -> None:
        calls.append(1)
        if len(calls) > 2:
            go.wait(60)

    hook = model._family.pipeline.transformer.register_forward_pre_hook(wait)  # type: ignore[attr-defined]
    drain = DrainAfter()
    with pytest.raises(Interrupted, match="drain"):
        list(model.generate(SPEC, drain, drain))
    assert [thread.name for thread in threading.enumerate() if thread.name == "denoise-ahead"], "it is in its step"
    go.set()
    for thread in threading.enumerate():
        if thread.name == "denoise-ahead":
            thread.join()
    hook.remove()


def test_nothing_of_a_stopped_clip_is_kept(any_model: Models) -> None:
    """On a GPU its latents would take the memory of the next job."""
    stopped(any_model("long"), spec_of("long"), 7)
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) in (DenoisingState, Snapshot)]
