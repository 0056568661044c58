"""What `generate` promises whatever the family: counts, seeds, crops, progress, stopping."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.contract import ClipSpec, Interrupted
from models.errors import GpuFailed, NotFinite, OutOfMemory, UnsupportedShape
from models.families.base import Latents
from models.model import LoadedModel
from tests.unit.models.conftest import ROWS

Models = Callable[[str], LoadedModel]
SPEC = ClipSpec(prompt="a red ball", width=64, height=32, frames=9, seed=7, steps=2, guidance=4.0)
LONG = replace(SPEC, frames=53)


def drawn(model: LoadedModel, spec: ClipSpec = SPEC) -> NDArray[np.uint8]:
    return np.concatenate([chunk.frames for chunk in model.generate(spec)])


def working_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "denoise-ahead"]


class After:
    """Cancelled after being asked `count` times."""

    def __init__(self, count: int) -> None:
        self.left = count

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted("cancelled")


class Steps:
    """A report that counts the steps it hears of, and a cancellation that comes with the second one."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def __call__(self, fraction: float, message: str = "", **details: object) -> None:
        self.heard.append(int(str(details["step"])))

    def check(self) -> None:
        if 2 in self.heard:
            raise Interrupted("cancelled")


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("frames", [1, 7])
def test_exactly_the_asked_frames(models: Models, name: str, frames: int) -> None:
    video = drawn(models(name), replace(SPEC, frames=frames, steps=1))
    assert video.shape == (frames, 32, 64, 3)
    assert video.dtype == np.uint8


@pytest.mark.parametrize("frames", [17, 18, 29, 30, 53])
def test_long_clips_have_exactly_the_asked_frames(models: Models, frames: int) -> None:
    assert len(drawn(models("long"), replace(SPEC, frames=frames, steps=1))) == frames


@pytest.mark.parametrize("name", ROWS)
def test_the_seed_decides(models: Models, name: str) -> None:
    model = models(name)
    first = drawn(model)
    np.testing.assert_array_equal(drawn(model), first)
    assert not np.array_equal(drawn(model, replace(SPEC, seed=8)), first)


def test_every_window_has_noise_of_its_own(models: Models) -> None:
    """Also where the seed is the same: torch's CPU generator reads only 32 bits of a seed."""
    model = models("long")
    video = drawn(model, LONG)
    np.testing.assert_array_equal(drawn(model, LONG), video)
    assert not np.array_equal(video[17:29], video[29:41])


def test_a_longer_clip_starts_like_a_shorter_one(models: Models) -> None:
    model = models("long")
    np.testing.assert_array_equal(drawn(model, LONG)[:30], drawn(model, replace(LONG, frames=30)))


def test_the_prefix_of_a_window_stays_clean(models: Models) -> None:
    """The transformer sees the last two latents of the stream unchanged at every step, at timestep 0."""
    model = models("long")
    clip = model._family.clip(LONG, model.entry.sizes["16:9"])
    first = clip.denoise(0, clip.encode(0), lambda loop: None)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    transformer = model._family.pipeline.transformer  # type: ignore[attr-defined]
    hook = transformer.register_forward_pre_hook(
        lambda module, arguments, named: seen.append((named["hidden_states"], named["timestep"])), with_kwargs=True
    )
    second = clip.denoise(1, clip.encode(1), lambda loop: None, previous=first).video
    hook.remove()
    assert second.shape[2] == 3
    assert len(seen) == 2 * LONG.steps
    for stream, timestep in seen:
        assert torch.equal(stream[:, :, :2], first.video[:, :, -2:])
        assert timestep.shape == (1, 5 * 2)
        assert (timestep[0, : 2 * 2] == 0).all()
        assert (timestep[0, 2 * 2 :] > 0).all()


def test_the_crop_is_the_centre(models: Models) -> None:
    model = models("wan")
    square = replace(SPEC, width=30, height=28)
    shown = drawn(model, square)
    assert shown.shape == (9, 28, 30, 3)
    clip = model._family.clip(square, model.entry.sizes["1:1"])
    whole = np.concatenate([c.frames for c in clip.decode(clip.denoise(0, clip.encode(0), lambda loop: None))])
    np.testing.assert_array_equal(shown, whole[:, 2:30, 1:31])


def test_progress_never_falls_and_ends_at_one(models: Models) -> None:
    told: list[tuple[float, dict[str, object]]] = []
    threads = set()

    def report(fraction: float, message: str = "", **details: object) -> None:
        told.append((fraction, details))
        threads.add(threading.current_thread())

    for _ in models("long").generate(LONG, report):
        pass
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert {d["window"] for _, d in told} == {1, 2, 3, 4}
    assert {d["step"] for _, d in told} == {1, 2}
    assert all(d["steps"] == 2 and d["windows"] == 4 for _, d in told)
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("name", ROWS)
def test_cancelling_stops_within_one_step(models: Models, name: str) -> None:
    model = models(name)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = model._family.pipeline.transformer.register_forward_pre_hook(count)  # type: ignore[attr-defined]
    steps = Steps()
    with pytest.raises(Interrupted, match="cancelled"):
        list(model.generate(replace(SPEC, steps=50), steps, steps))
    hook.remove()
    per_step = 1 if name in ("cogvideox", "ltx2") else 2
    assert calls <= per_step * 10, "far fewer than 50 steps, whatever the machine's load"
    assert not working_threads()


def test_cancelling_between_chunks_ends_the_thread(models: Models) -> None:
    chunks = models("long").generate(LONG, cancellation=After(6))
    with pytest.raises(Interrupted):
        list(chunks)
    assert not working_threads()


def test_a_caller_that_leaves_early_leaves_no_thread(models: Models) -> None:
    chunks = models("long").generate(replace(LONG, frames=200))
    next(chunks)
    assert working_threads()
    chunks.close()  # type: ignore[attr-defined]
    assert not working_threads()


def test_a_model_draws_again_after_an_interruption(models: Models) -> None:
    model = models("long")
    whole = drawn(model, LONG)
    chunks = model.generate(LONG)
    next(chunks)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(drawn(model, LONG), whole)


def test_out_of_memory_while_denoising_is_a_resource_fault(models: Models) -> None:
    model = models("wan")

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model._family.pipeline.transformer.register_forward_pre_hook(fail)  # type: ignore[attr-defined]
    with pytest.raises(OutOfMemory, match="GiB") as caught:
        drawn(model)
    hook.remove()
    assert caught.value.fault == "resource"
    assert not working_threads()
    assert len(drawn(model)) == SPEC.frames


def test_a_gpu_that_fails_while_drawing_is_a_resource_fault(models: Models) -> None:
    model = models("wan")

    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    hook = model._family.pipeline.transformer.register_forward_pre_hook(fail)  # type: ignore[attr-defined]
    with pytest.raises(GpuFailed, match="while shrunken-wan was drawing") as caught:
        drawn(model)
    hook.remove()
    assert caught.value.fault == "resource"
    assert not working_threads()


@pytest.mark.parametrize("spoilt", ["video", "audio"])
def test_latents_that_are_not_finite_are_refused(models: Models, monkeypatch: pytest.MonkeyPatch, spoilt: str) -> None:
    """A decoder would make a black picture, or silence, of them."""
    model = models("ltx2")
    size = model.entry.sizes["16:9"]
    clip = model._family.clip(SPEC, size)
    latents = clip.denoise(0, clip.encode(0), lambda loop: None)
    broken = replace(latents, **{spoilt: torch.full_like(getattr(latents, spoilt), float("nan"))})

    def denoise(*_: object) -> Latents:
        return broken

    monkeypatch.setattr(type(clip), "denoise", denoise)
    with pytest.raises(NotFinite, match="shrunken-ltx2"):
        drawn(model)
    assert not working_threads()


def test_an_unknown_size_is_refused_with_the_known_ones(models: Models) -> None:
    with pytest.raises(UnsupportedShape, match="64×32, 30×28"):
        models("wan").generate(replace(SPEC, width=33))


@pytest.mark.parametrize("name", [name for name in ROWS if name != "long"])
def test_a_clip_beyond_the_native_length_is_refused(models: Models, name: str) -> None:
    with pytest.raises(UnsupportedShape, match="17 frames, not 18"):
        models(name).generate(replace(SPEC, frames=18))


def test_open_world_models_understand_everything(models: Models) -> None:
    understood = models("wan").understand("a cat plays chess")
    assert (understood.complete, understood.text, understood.ignored) == (True, "a cat plays chess", ())


@pytest.mark.parametrize("name", ROWS)
def test_of_a_long_prompt_is_understood_what_the_text_encoder_reads(models: Models, name: str) -> None:
    prompt = "a red ball over dark hills " * 200
    read = models(name).understand(prompt)
    kept = read.text.split()
    assert not read.complete and (*kept, *read.ignored) == tuple(prompt.split())
    assert same(embedded(models(name), read.text), embedded(models(name), prompt))
    assert not same(embedded(models(name), " ".join(kept[:-1])), embedded(models(name), prompt))


def embedded(model: LoadedModel, prompt: str) -> list[torch.Tensor]:
    """What the text encoders give, of the prompt and the negative one."""
    spec = replace(SPEC, prompt=prompt)
    found = model._family.clip(spec, model.entry.sizes["16:9"]).encode(0)
    parts = found if isinstance(found, tuple) else (found if isinstance(found, dict) else vars(found)).values()
    return [part for part in parts if part is not None]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))
