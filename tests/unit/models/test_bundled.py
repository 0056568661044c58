"""The bundled model through the catalogue: its lock, its words, its windows."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from config.catalogue import Catalogue
from config.settings import ModelSettings
from models import loader, weights
from models.contract import ClipSpec
from models.families.tiny import PaddingAsOne, with_one_padding
from models.model import LoadedModel
from tests.unit.models import shrunken

ENTRY = Catalogue.load().get("tiny")
SETTINGS = ModelSettings(device="cpu")
SPEC = ClipSpec("a beautiful sunset over mountains", 112, 63, frames=30, seed=12345, steps=2, guidance=4.0)


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    model = loader.load(ENTRY, SETTINGS)
    assert isinstance(model, LoadedModel)
    return model


def test_the_bundled_weights_are_those_of_their_lock() -> None:
    """Fails after new weights came without `models.weights.write_lock`."""
    folder = weights.folder_of(ENTRY, SETTINGS)
    weights.check(ENTRY, folder)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 25 * 2**20


def test_a_film_is_cropped_to_an_exact_shape_and_counts_every_frame(tiny: LoadedModel) -> None:
    video = np.concatenate([chunk.frames for chunk in tiny.generate(SPEC)])
    assert video.shape == (30, 63, 112, 3)
    again = np.concatenate([chunk.frames for chunk in tiny.generate(SPEC)])
    assert hashlib.sha256(video.tobytes()).digest() == hashlib.sha256(again.tobytes()).digest()


def test_a_window_is_what_the_plain_pipeline_draws(tiny: LoadedModel) -> None:
    """The padding of the text is cut here and whole there."""
    spec = replace(SPEC, prompt="a red circle moving right", frames=17, steps=6)
    pipeline = WanPipeline.from_pretrained(weights.folder_of(ENTRY, SETTINGS), dtype=torch.float32)
    frames = pipeline(
        prompt=tiny.understand(spec.prompt).text,
        negative_prompt="",
        width=112,
        height=64,
        num_frames=17,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(spec.seed),
        output_type="np",
    ).frames[0]
    drawn = np.concatenate([chunk.frames for chunk in tiny.generate(spec)])
    error = np.square(drawn / 255 - frames[:, :63]).mean()
    assert 10 * np.log10(1 / error) >= 40


def test_padding_cut_to_one_token_weighs_as_much_as_all_of_it() -> None:
    """On random weights, since those of the text's projections must not be zero."""
    torch.manual_seed(0)
    transformer = shrunken.wan_transformer(4)
    text = torch.zeros(1, 512, 16)
    text[:, :7] = torch.randn(1, 7, 16)
    latents, time = torch.randn(1, 4, 2, 4, 6), torch.tensor([500.0])
    cut = with_one_padding(text)
    assert cut.shape[1] == 8
    with torch.no_grad():
        whole = transformer(latents, time, text, return_dict=False)[0]
        unweighted = transformer(latents, time, cut, return_dict=False)[0]
        transformer.set_attn_processor(PaddingAsOne())
        weighted = transformer(latents, time, cut, return_dict=False)[0]
    torch.testing.assert_close(weighted, whole, atol=1e-5, rtol=1e-4)
    assert (unweighted - whole).abs().max() > 100 * (weighted - whole).abs().max()


def test_every_window_of_a_sunset_asks_for_its_own_moment(tiny: LoadedModel) -> None:
    texts = [tiny._family.texts(SPEC, window)[0] for window in range(3)]  # type: ignore[attr-defined]
    moments = [int(text.split(">")[0].removeprefix("<p")) for text in texts]
    assert moments == sorted(moments)
    assert moments[0] < moments[-1]
    assert all(text.endswith("sunset over mountains") for text in texts)


@pytest.mark.parametrize(
    ("prompt", "complete", "ignored"),
    [
        ("a red circle moving right", True, ()),
        ("a sunset with a helicopter", False, ("helicopter",)),
        ("quantum blockchain", False, ("quantum", "blockchain")),
    ],
)
def test_it_says_what_it_cannot_draw(tiny: LoadedModel, prompt: str, complete: bool, ignored: tuple[str, ...]) -> None:
    understood = tiny.understand(prompt)
    assert understood.complete is complete
    assert understood.ignored == ignored
    assert bool(understood.text) is (len(ignored) < len(prompt.split()))


def test_the_prompt_changes_the_picture(tiny: LoadedModel) -> None:
    def first(prompt: str) -> np.ndarray:
        spec = ClipSpec(prompt, 112, 63, frames=1, seed=1, steps=2, guidance=4.0)
        return next(iter(tiny.generate(spec))).frames

    assert not np.array_equal(first("snow falling on the forest"), first("a red circle moving right"))
