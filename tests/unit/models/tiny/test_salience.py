"""What the autoencoder's loss looks at."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from models.tiny.training.data.attributes import Spec
from models.tiny.training.data.clips import draw
from models.tiny.training.vae import AROUND, CLIPS, CROP, STILLS, batch, salience, sample, to_tensor


def test_a_small_shape_and_its_surroundings_weigh_as_much_as_all_else() -> None:
    spec = Spec("shape", shape="heart", colour="red", size="small", direction="right", speed="slow", background="grey")
    clip = to_tensor(draw(spec, seed=3, usual=True).frames)[None]
    weights = salience(clip)
    red = clip[:, :1] - clip[:, 2:] > 0.8
    near = functional.max_pool3d(red.float(), (1, AROUND, AROUND), 1, (0, AROUND // 2, AROUND // 2)) > 0
    assert 0.005 < red.float().mean() < 0.06
    assert weights[near].sum() > 0.45 * weights.sum()
    assert weights[near & ~red].mean() > 0.8 * weights[red].mean()
    assert 0.5 < weights.mean() <= 1


@pytest.mark.parametrize(("step", "count", "frames"), [(0, STILLS, 1), (1, CLIPS, 17), (4, STILLS, 1), (15, 1, 33)])
def test_one_step_in_four_sees_stills(step: int, count: int, frames: int) -> None:
    clips, weights = batch(step, 0, whole=False)
    assert clips.shape == (count, 3, frames, *CROP)
    assert weights.shape == (count, 1, frames, *CROP)


def test_without_a_subject_all_weighs_the_same() -> None:
    torch.testing.assert_close(salience(torch.full((1, 3, 5, 4, 6), 0.3)), torch.full((1, 1, 5, 4, 6), 0.5))


def test_crops_are_taken_where_there_is_most_to_see() -> None:
    crops = wholes = 0.0
    for seed in range(30):
        whole, crop = sample(seed, 5, True), sample(seed, 5, False)
        assert crop.shape == (4, 5, *CROP)
        places = whole.unfold(2, CROP[0], 1).unfold(3, CROP[1], 1)  # (4, 5, rows, columns, 48, 64)
        alike = (places == crop[:, :, None, None]).all(dim=5).all(dim=4).all(dim=1).all(dim=0)
        assert alike.any()
        crops, wholes = crops + crop[3].mean().item(), wholes + whole[3].mean().item()
    assert crops > 1.1 * wholes
