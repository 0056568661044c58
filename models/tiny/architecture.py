"""Shapes and sizes of the bundled model: what each of its parts is made of."""

from typing import Any

from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from models.tiny.words import PHASE_TOKENS, SPECIAL_TOKENS, VOCABULARY_SIZE, WORDS

PADDING, END, UNKNOWN = SPECIAL_TOKENS

WIDTH = 112
HEIGHT = 64  # cropped to 63 rows for exact 16:9
FRAMES = 17
FPS = 8
SPACE_FACTOR = 16  # pixels per latent, along x and y
TIME_FACTOR = 4  # frames per latent, after the first
LATENT_CHANNELS = 32

VAE_CONFIG: dict[str, Any] = {
    "base_dim": 24,
    "decoder_base_dim": 40,
    "z_dim": LATENT_CHANNELS,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": SPACE_FACTOR,
    "scale_factor_temporal": TIME_FACTOR,
}


def new_vae(mean: list[float] | None = None, std: list[float] | None = None, **changes: Any) -> AutoencoderKLWan:
    """A randomly initialised autoencoder; `mean` and `std` of its latents, one value a channel, go in its config."""
    config = {**VAE_CONFIG, **changes}
    z_dim = config["z_dim"]
    return AutoencoderKLWan(latents_mean=mean or [0.0] * z_dim, latents_std=std or [1.0] * z_dim, **config)


TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "d_model": 192,
    "d_kv": 48,
    "num_heads": 4,
    "d_ff": 512,
    "num_layers": 2,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 32,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}

DENOISER_CONFIG: dict[str, Any] = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 4,
    "attention_head_dim": 48,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "text_dim": 192,
    "freq_dim": 128,
    "ffn_dim": 768,
    "num_layers": 8,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 64,
}

SHIFT = 3.0  # of the flow-matching times, in training and in sampling alike


def new_text_encoder() -> UMT5EncoderModel:
    """A randomly initialised text encoder."""
    return UMT5EncoderModel(UMT5Config(**TEXT_CONFIG))


def new_denoiser() -> WanTransformer3DModel:
    """A randomly initialised denoiser: latents (batch, 32, 5, 4, 7), one token a latent."""
    return WanTransformer3DModel(**DENOISER_CONFIG)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer; it ends every text with `</s>` and keeps phase tokens whole."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, vocabulary[END])]
    )
    inner.add_special_tokens([*SPECIAL_TOKENS, *PHASE_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PADDING, eos_token=END, unk_token=UNKNOWN, model_max_length=512
    )


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Plain Euler steps along the flow."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT)
