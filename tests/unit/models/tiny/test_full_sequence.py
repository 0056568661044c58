"""The whole-clip forward of the autoencoder equals the library's chunked one."""

import copy

import pytest
import torch

from models.tiny.architecture import new_vae
from models.tiny.training import full_sequence


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_equals_the_chunked_forward(frames: int) -> None:
    torch.manual_seed(0)
    plain = new_vae(base_dim=8, decoder_base_dim=8).eval()
    whole = full_sequence.as_full_sequence(copy.deepcopy(plain))
    clip = torch.rand(1, 3, frames, 32, 32) * 2 - 1
    with torch.no_grad():
        wanted = plain.encode(clip).latent_dist.mean
        mean, _ = full_sequence.encode(whole, clip)
        made = full_sequence.decode(whole, wanted).clamp(-1, 1)
        torch.testing.assert_close(mean, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(made, plain.decode(wanted).sample, atol=1e-4, rtol=1e-4)
