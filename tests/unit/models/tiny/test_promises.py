"""The measures of films on films that were drawn; in `make test-long`, what holds of the bundled weights themselves."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from models.contract import ClipSpec
from models.model import LoadedModel
from models.tiny.training import evaluation, promises
from models.tiny.training.data.attributes import Spec
from models.tiny.training.data.clips import draw
from models.tiny.training.export import WEIGHTS

PROMPTS = tuple(evaluation.SHEET_PROMPTS[:20])


def test_inference_never_reaches_the_training() -> None:
    code = (
        "import sys, models.loader, models.families.tiny, stages.render\n"
        "print([name for name in sys.modules if name.startswith('models.tiny.training')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("way", "sign"), [("right", 1), ("left", -1)])
def test_drift_is_read_off_drawn_clouds(way: str, sign: int) -> None:
    clip = draw(Spec("clouds", direction=way), seed=5, frames=33).frames
    assert 4 < sign * promises.drift(clip) < 11
    assert promises.speed_kept(clip) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(("speed", "kept"), [("normal", 1.0), ("slow", 9 / 14), ("fast", 9 / 6)])
def test_the_speed_of_a_ball_is_read_off_drawn_films(speed: str, kept: float) -> None:
    begun, ended = (
        draw(Spec("shape", "circle", "yellow", "medium", "right", pace, "black"), seed=5, usual=True, frames=17).frames
        for pace in ("normal", speed)
    )
    gone = np.zeros_like(begun) + begun[:, :, :1]  # out of the frame meanwhile
    assert promises.ball_speed_kept(np.concatenate([begun, gone, ended])) == pytest.approx(kept, abs=0.1)


def test_borders_tell_a_jump_from_steady_motion() -> None:
    steady = np.cumsum(np.ones((53, 4, 4, 3)), axis=0).astype(np.uint8)
    assert promises.borders(steady) == pytest.approx(1)
    jumping = steady.copy()
    for first in (17, 29, 41):
        jumping[first:] += 9
    assert promises.borders(jumping) == pytest.approx(10)


def test_memory_is_counted_at_its_peak() -> None:
    assert promises.peak_bytes(lambda: np.ones(2**26)) > 2**28


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return promises.load(WEIGHTS)


def test_a_film_is_drawn_at_the_native_rate(model: LoadedModel) -> None:
    assert promises.film(model, promises.SUNSET, 2.5, steps=1).shape == (20, 63, 112, 3)


@pytest.mark.long
@pytest.mark.parametrize("prompt", PROMPTS)
def test_frames_are_those_of_the_plain_pipeline(model: LoadedModel, plain: WanPipeline, prompt: str) -> None:
    # The first window asks for the moment at which a film of its length begins: the same text for both.
    spec = ClipSpec(prompt, 112, 63, frames=17, seed=11, steps=8, guidance=4.0)
    text = model._family.texts(spec, 0)[0]  # type: ignore[attr-defined]
    frames = plain(
        prompt=text,
        negative_prompt="",
        width=112,
        height=64,
        num_frames=17,
        num_inference_steps=8,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(11),
        output_type="np",
    ).frames[0]
    drawn = np.concatenate([chunk.frames for chunk in model.generate(spec)])
    assert 10 * np.log10(1 / np.square(drawn / 255 - frames[:, :63]).mean()) >= 40


@pytest.fixture(scope="module")
def plain() -> WanPipeline:
    return evaluation.load()


@pytest.mark.long
def test_with_its_transformer_shuffled_it_falls_to_chance(plain: WanPipeline) -> None:
    shuffled = evaluation.load()
    generator = torch.Generator().manual_seed(0)
    for param in shuffled.transformer.parameters():
        order = torch.randperm(param.numel(), generator=generator)
        param.data = param.data.reshape(-1)[order].reshape(param.shape)
    found = evaluation.accuracy(shuffled, 48, steps=8, guidance=4.0)
    assert found["all"] <= 0.05
    assert found["colour"] <= 0.35
    assert found["background"] <= 0.35
    assert found["shape"] <= 0.4
    assert found["direction"] <= 0.5


@pytest.mark.long
def test_memory_does_not_grow_with_duration() -> None:
    assert promises.memory_of_length(WEIGHTS) <= 1.3


@pytest.mark.long
def test_seeds_differ_as_captions_do(model: LoadedModel) -> None:
    assert promises.seeds_against_captions(model, steps=model.entry.steps) >= 0.3
