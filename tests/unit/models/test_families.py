"""Every family draws what its plain diffusers pipeline draws, and its streaming decoder what the whole VAE decodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentencepiece import SentencePieceTrainer

from config.settings import ModelSettings
from models import loader
from models.contract import ClipSpec
from models.families.cogvideox import stream_decode
from models.families.wan import WanStreamDecoder
from models.model import LoadedModel
from models.weights import write_lock
from tests.unit.models import shrunken, shrunken_others

Models = Callable[[str], LoadedModel]
SPEC = ClipSpec(prompt="a red ball", width=64, height=32, frames=17, seed=7, steps=3, guidance=4.0)
WAN = ("wan", "wan-ti2v", "wan-moe", "long")
OTHERS = ("cogvideox", "hunyuan15", "ltx2")


def drawn(model: LoadedModel, spec: ClipSpec = SPEC) -> NDArray[np.uint8]:
    return np.concatenate([chunk.frames for chunk in model.generate(spec)])


def plain(model: LoadedModel, spec: ClipSpec = SPEC, **arguments: Any) -> NDArray[np.uint8]:
    """The same clip by the stock pipeline call, same weights, noise from the same seed."""
    pipeline = model._family.pipeline  # type: ignore[attr-defined]
    frames = pipeline(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        num_frames=spec.frames,
        num_inference_steps=spec.steps,
        generator=torch.Generator().manual_seed(spec.seed),
        output_type="np",
        **arguments,
    ).frames[0]
    return np.asarray((frames * 255).round(), dtype=np.uint8)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("name", WAN)
def test_wan_frames_are_those_of_the_plain_pipeline(models: Models, name: str) -> None:
    model = models(name)
    guidance = {"guidance_scale": 4.0} | ({"guidance_scale_2": 3.0} if name == "wan-moe" else {})
    np.testing.assert_array_equal(drawn(model), plain(model, **guidance))


@pytest.mark.parametrize("name", WAN)
def test_wan_without_guidance_is_the_plain_pipeline_too(models: Models, name: str) -> None:
    model = models(name)
    spec = ClipSpec("a blue sky", 64, 32, frames=9, seed=1, steps=2, guidance=1.0)
    expected = plain(model, spec if name != "long" else SPEC_OF_A_FULL_WINDOW, guidance_scale=1.0)[:9]
    np.testing.assert_array_equal(drawn(model, spec), expected)


SPEC_OF_A_FULL_WINDOW = ClipSpec("a blue sky", 64, 32, frames=17, seed=1, steps=2, guidance=1.0)


def test_both_experts_of_a14b_take_part(models: Models) -> None:
    """The boundary of 0.875 lies between the steps of this schedule."""
    model = models("wan-moe")
    used: list[str] = []
    pipeline = model._family.pipeline  # type: ignore[attr-defined]
    hooks = [
        getattr(pipeline, expert).register_forward_pre_hook(lambda *_, expert=expert: used.append(expert))
        for expert in ("transformer", "transformer_2")
    ]
    drawn(model)
    for hook in hooks:
        hook.remove()
    assert used[:2] == ["transformer", "transformer"]
    assert used[-2:] == ["transformer_2", "transformer_2"]


def test_cogvideox_is_the_plain_pipeline(models: Models) -> None:
    model = models("cogvideox")
    assert psnr(drawn(model), plain(model, guidance_scale=SPEC.guidance)) >= 40


def test_hunyuan_is_the_plain_pipeline(models: Models) -> None:
    model = models("hunyuan15")
    got = drawn(model)
    assert model._family.pipeline.guider.guidance_scale == SPEC.guidance  # type: ignore[attr-defined]
    assert psnr(got, plain(model)) >= 40


def test_ltx2_is_the_plain_pipeline_with_its_sound(models: Models) -> None:
    model = models("ltx2")
    pipeline = model._family.pipeline  # type: ignore[attr-defined]
    chunks = list(model.generate(SPEC))
    expected = pipeline(
        prompt=SPEC.prompt,
        negative_prompt="",
        width=64,
        height=32,
        num_frames=17,
        frame_rate=24,
        num_inference_steps=3,
        guidance_scale=4.0,
        stg_scale=0.0,
        modality_scale=1.0,
        guidance_rescale=0.0,
        audio_guidance_scale=None,
        audio_stg_scale=None,
        audio_modality_scale=None,
        audio_guidance_rescale=None,
        generator=torch.Generator().manual_seed(SPEC.seed),
        output_type="np",
    )
    frames = np.asarray((expected.frames[0] * 255).round(), dtype=np.uint8)
    assert psnr(np.concatenate([chunk.frames for chunk in chunks]), frames) >= 40
    sound = np.concatenate([chunk.audio for chunk in chunks if chunk.audio is not None])
    wave = expected.audio[0].T.numpy()
    shared = min(len(sound), len(wave))
    assert shared > 0.9 * len(sound)
    np.testing.assert_allclose(sound[:shared], wave[:shared], atol=1e-4)
    assert np.ptp(wave) > 1e-3


def test_sound_lasts_exactly_as_long_as_the_frames(models: Models) -> None:
    model = models("ltx2")
    spec = ClipSpec("a dark sky", 64, 32, frames=11, seed=1, steps=1, guidance=1.0)
    chunks = list(model.generate(spec))
    assert model.audio_sample_rate == 24000
    assert sum(len(chunk.frames) for chunk in chunks) == 11
    assert sum(len(chunk.audio) for chunk in chunks if chunk.audio is not None) == 11 * 24000 // 24
    assert all(chunk.audio is not None and chunk.audio.shape[1] == 2 for chunk in chunks)


@pytest.mark.parametrize("patch_size", [None, 2])
@pytest.mark.parametrize("size", [(2, 4), (6, 8)])
def test_wan_streaming_decode_is_bit_equal(patch_size: int | None, size: tuple[int, int]) -> None:
    vae = shrunken.wan_vae(patch_size)
    latents = torch.randn(1, 4, 5, *size, generator=torch.Generator().manual_seed(3))
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    inverse = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        whole = vae.decode(latents / inverse + mean, return_dict=False)[0]
    pieces = list(WanStreamDecoder(vae).decode(latents))
    assert [piece.shape[2] for piece in pieces] == [1, 4, 4, 4, 4]
    assert torch.equal(torch.cat(pieces, dim=2), whole)


def test_wan_stream_goes_on_over_windows() -> None:
    """Two windows decode as one: the cache is kept, the second has no first frame of its own."""
    vae = shrunken.wan_vae(2)
    latents = torch.randn(1, 4, 8, 6, 8, generator=torch.Generator().manual_seed(3))
    decoder = WanStreamDecoder(vae)
    split = [*decoder.decode(latents[:, :, :5]), *decoder.decode(latents[:, :, 5:])]
    assert torch.equal(torch.cat(split, dim=2), torch.cat(list(WanStreamDecoder(vae).decode(latents)), dim=2))
    assert sum(piece.shape[2] for piece in split) == 1 + 4 * 7


def test_wan_streams_share_no_cache_and_leave_none_on_the_vae() -> None:
    vae = shrunken.wan_vae(2)
    latents = torch.randn(2, 1, 4, 3, 6, 8, generator=torch.Generator().manual_seed(3))
    alone = [list(WanStreamDecoder(vae).decode(one)) for one in latents]
    streams = [WanStreamDecoder(vae).decode(one) for one in latents]
    side_by_side = list(zip(*streams, strict=True))
    for own, pieces in zip(alone, zip(*side_by_side, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces, dim=2), torch.cat(own, dim=2))
    assert vae._feat_map == [None] * len(vae._feat_map)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 6])
def test_cogvideox_streaming_decode_is_bit_equal(frames: int) -> None:
    vae = shrunken_others.cogvideox().vae
    latents = torch.randn(1, 4, frames, 4, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole = vae.decode(latents).sample
    pieces = list(stream_decode(vae, latents))
    assert torch.equal(torch.cat(pieces, dim=2), whole)
    assert len(pieces) == max(1, frames // 2)


def test_cogvideox_reads_the_tokenizer_of_its_repository(tmp_path: Path) -> None:
    """Its repository has a SentencePiece model and no tokenizer.json, so loading needs `sentencepiece` installed."""
    entry = shrunken.entry("cogvideox", name="sentencepiece", flow_shift=None)
    folder = shrunken.save(shrunken_others.cogvideox(), entry, tmp_path)
    (folder / "tokenizer/tokenizer.json").unlink()
    text = tmp_path / "text.txt"
    text.write_text("a red ball over the blue sky\ndark hills and a panda\n" * 50)
    SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer/spiece"),
        vocab_size=26,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 226}
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(settings))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"tokenizer": ["transformers", "T5Tokenizer"]}))
    write_lock(folder, entry.source, entry.revision)
    model = loader.load(entry, ModelSettings(weights=str(tmp_path), device="cpu"))
    tokenizer = model._family.pipeline.tokenizer  # type: ignore[attr-defined]
    tokens = tokenizer("a red ball").input_ids
    assert tokenizer.unk_token_id not in tokens
    assert len(set(tokens)) > 4
