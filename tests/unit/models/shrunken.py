"""Random-weight pipelines of the real classes, small enough for a test, saved as the folders that are loaded from."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from config.catalogue import ModelEntry, Size
from models.weights import write_lock

WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "ball", "blue", "sky", "over", "hills", "dark")


def entry(family: str, **changes: object) -> ModelEntry:
    """A catalogue row of `family` for a shrunken pipeline, with some fields changed."""
    row: dict[str, object] = {
        "name": f"shrunken-{family}",
        "family": family,
        "purpose": "tests",
        "source": "tests/shrunken",
        "revision": "0" * 40,
        "licence": "MIT",
        "dtype": "float32",
        "sizes": {"16:9": Size(width=64, height=32), "1:1": Size(width=32, height=32, keep=(30, 28))},
        "frames": 17,
        "frame_step": 4,
        "fps": 8,
        "output_fps": 8,
        "steps": 3,
        "guidance": 4.0,
        "flow_shift": 3.0,
        "vram_gib": 0.1,
        "extend": "none",
        "max_duration_s": 2,
    }
    return ModelEntry.model_validate(row | changes)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, made here, since none can be downloaded."""
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def umt5() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ).eval()


def wan_vae(patch_size: int | None) -> AutoencoderKLWan:
    """The causal VAE: 8 times smaller in space, or 16 times with `patch_size` 2 (Wan 2.2 5B and the bundled model)."""
    torch.manual_seed(1)
    channels = 3 * (patch_size or 1) ** 2
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.1, 2.0],
        in_channels=channels,
        out_channels=channels,
        patch_size=patch_size,
        scale_factor_spatial=8 * (patch_size or 1),
        is_residual=patch_size is not None,
    ).eval()


def wan_transformer(seed: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
    ).eval()


def wan(patch_size: int | None = None, experts: int = 1, expand_timesteps: bool = False) -> WanPipeline:
    """Wan 2.1; with `patch_size` and `expand_timesteps` Wan 2.2 TI2V-5B; with two experts Wan 2.2 A14B."""
    torch.manual_seed(0)
    return WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=umt5(),
        vae=wan_vae(patch_size),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=1.0
        ),
        transformer=wan_transformer(2),
        transformer_2=wan_transformer(3) if experts == 2 else None,
        boundary_ratio=0.875 if experts == 2 else None,
        expand_timesteps=expand_timesteps,
    )


def save(pipeline: object, row: ModelEntry, root: Path) -> Path:
    """Save as `t2m models pull` would: named by revision, with a lock."""
    folder = root / f"{row.name}@{row.revision}"
    pipeline.save_pretrained(folder, safe_serialization=True)  # type: ignore[attr-defined]
    write_lock(folder, row.source, row.revision)
    return folder
