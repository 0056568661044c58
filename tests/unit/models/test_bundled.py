"""The bundled model through the catalogue: its lock, its words, its windows."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from config.catalogue import Catalogue
from config.settings import ModelSettings
from models import loader, weights
from models.contract import ClipSpec
from models.model import LoadedModel

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
