"""The training shortcuts of the denoiser change nothing that sampling relies on."""

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from models.tiny.architecture import new_tokenizer
from models.tiny.training.denoiser import TEXT_LENGTH, TEXT_PADDED, Model, draw_sigmas, foreground_weights
from models.tiny.training.optimise import orthogonal
from models.tiny.words import WORDS


def test_a_short_text_weighs_as_if_padded_like_the_pipeline_pads_it() -> None:
    torch.manual_seed(0)
    model = Model().eval()
    model.denoiser.proj_out.weight.data.normal_(0, 0.1)
    texts = ["a red circle moving left", ""]
    tokenizer = new_tokenizer()
    short = tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
    padded = tokenizer(texts, padding="max_length", max_length=TEXT_PADDED, return_tensors="pt")
    noisy, times = torch.randn(2, 32, 5, 4, 7), torch.tensor([500.0, 100.0])
    with torch.no_grad():
        made = model(noisy, times, short.input_ids, short.attention_mask)
        text = model.text_encoder(padded.input_ids, padded.attention_mask).last_hidden_state
        model.denoiser.set_attn_processor(WanAttnProcessor())
        wanted = model.denoiser(noisy, times, text * padded.attention_mask[..., None], return_dict=False)[0]
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)


def test_the_tokenizer_keeps_phases_whole_and_ends_the_text() -> None:
    ids = new_tokenizer()("<p3> A beautiful sunset over mountains, zzz").input_ids
    assert [WORDS[index] for index in ids] == [
        "<p3>",
        "a",
        "beautiful",
        "sunset",
        "over",
        "mountains",
        "<unk>",
        "<unk>",
        "</s>",
    ]


def test_noise_levels_stay_between_zero_and_one_and_lean_to_noise() -> None:
    sigma = draw_sigmas(2000, torch.Generator().manual_seed(0))
    assert sigma.min() > 0 and sigma.max() < 1
    assert sigma.mean() > 0.6


def test_foreground_weights_average_one() -> None:
    weights = foreground_weights(torch.randn(2, 32, 5, 4, 7), torch.rand(2, 1, 1, 1, 1))
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_orthogonal_update_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.4
