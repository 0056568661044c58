"""The procedural world: deterministic, in taught words, with combinations kept back."""

import numpy as np
import pytest

from models.tiny.training.data.attributes import BACKGROUNDS, Spec, held_out
from models.tiny.training.data.captions import caption
from models.tiny.training.data.clips import KIND_WEIGHTS, clip, draw, random_spec
from models.tiny.training.measure import read
from models.tiny.words import PHASE_TOKENS, VOCABULARY_SIZE, WORDS


@pytest.mark.parametrize("kind", list(KIND_WEIGHTS))
def test_equal_seeds_give_equal_moving_clips(kind: str) -> None:
    first, second = clip(5, kind), clip(5, kind)
    assert first.frames.shape == (17, 64, 112, 3) and first.frames.dtype == np.uint8
    assert np.array_equal(first.frames, second.frames)
    assert not np.array_equal(first.frames[0], first.frames[-1])
    assert not np.array_equal(first.frames, clip(6, kind).frames)


def test_captions_use_taught_words_only() -> None:
    rng = np.random.default_rng(0)
    used = {word for _ in range(1500) for word in caption(random_spec(rng), rng, 0.5).split()}
    assert used <= set(WORDS)
    assert PHASE_TOKENS[8] in used
    assert len(set(WORDS)) == len(WORDS) <= VOCABULARY_SIZE


def test_held_out_combinations_are_never_drawn_for_training() -> None:
    rng = np.random.default_rng(1)
    specs = [random_spec(rng, "shape") for _ in range(300)]
    assert not any(held_out(spec.colour, spec.shape, spec.direction, spec.background) for spec in specs)
    kept = random_spec(rng, "shape", evaluation=True)
    assert held_out(kept.colour, kept.shape, kept.direction, kept.background)


@pytest.mark.parametrize(
    "spec", [Spec("waves"), *(Spec("shape", "circle", "red", "small", "right", "slow", name) for name in BACKGROUNDS)]
)
def test_seeds_differ_in_light_but_on_white_and_grey(spec: Spec) -> None:
    means = [draw(spec, seed, usual=True, frames=1).frames.mean() for seed in range(6)]
    assert (max(means) > 1.1 * min(means)) == (spec.background not in ("white", "grey"))


def test_the_way_of_a_large_slow_shape_is_read() -> None:
    spec = Spec("shape", "circle", "red", "large", "up", "slow", "desert")  # few frames of it are clear of the border
    assert read(draw(spec, 7, usual=True).frames / 255)["direction"] == "up"


def test_the_measure_reads_drawn_clips() -> None:
    rng = np.random.default_rng(2)
    right = []
    for seed in range(12):
        spec = random_spec(rng, "shape", evaluation=True)
        seen = read(draw(spec, seed, usual=True).frames / 255)
        right += [seen[name] == getattr(spec, name) for name in ("colour", "direction", "background", "shape")]
    assert np.mean(right) > 0.9
