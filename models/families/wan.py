"""Wan 2.1, Wan 2.2 (TI2V-5B and the two experts of A14B) and the bundled model, all on diffusers' `WanPipeline` parts.

The loop is our own: the same operations in the same order as `WanPipeline.__call__`, so the latents are bit-equal, and
beyond it a window may start with clean latents of the one before (`latent-prefix`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from config.catalogue import ModelEntry, Size
from models.contract import Chunk, ClipSpec, Understood
from models.denoise import DenoisingState, OnStep, denoise
from models.errors import UnsupportedShape
from models.families.base import Latents, latent_frames, read_by
from models.families.pipelines import open_pipeline
from models.frames import to_rgb
from models.seeds import window_generator

PREFIX = 2
"""Latent frames of the stream's end that a `latent-prefix` window starts with; the bundled model is trained for it."""

MAX_PROMPT_TOKENS = 512
"""What `WanPipeline.__call__` cuts prompts to by default, and Wan was trained with."""


@dataclass(frozen=True)
class WanConditions:
    """Text embeddings, shape (1, tokens, text width); `negative` is None without guidance."""

    prompt: Tensor
    negative: Tensor | None


class WanFamily:
    """Adapter of a loaded `WanPipeline`."""

    audio_sample_rate: int | None = None

    def __init__(self, pipeline: Any, entry: ModelEntry) -> None:  # noqa: ANN401 - diffusers has no types
        self.pipeline = pipeline
        self.entry = entry

    def understand(self, prompt: str) -> Understood:
        """As much of it as the text encoder is given."""
        return read_by(self.pipeline.tokenizer, prompt, MAX_PROMPT_TOKENS)

    def texts(self, spec: ClipSpec, window: int) -> tuple[str, str]:
        """Prompt and negative prompt that the text encoder reads for a window."""
        return spec.prompt, spec.negative_prompt

    @torch.inference_mode()
    def conditions(self, spec: ClipSpec, window: int) -> WanConditions:
        """Embeddings of the texts of a window, padded with zeros as `WanPipeline` does."""
        prompt, negative = self.texts(spec, window)
        embeddings = self.pipeline.encode_prompt(
            prompt,
            negative_prompt=negative,
            do_classifier_free_guidance=spec.guidance > 1,
            max_sequence_length=MAX_PROMPT_TOKENS,
            device=self.pipeline.device,
        )
        return WanConditions(*embeddings)

    def clip(self, spec: ClipSpec, size: Size) -> WanClip:
        """See `Family.clip`."""
        return WanClip(self, spec, size)


def load(entry: ModelEntry, folder: Path, device: str) -> WanFamily:
    """The adapter of a Wan pipeline in `folder`; its VAE runs in float32, as Wan's authors advise."""
    from diffusers import WanPipeline

    return WanFamily(open_pipeline(WanPipeline, entry, folder, device, vae=torch.float32), entry)


class WanClip:
    """One clip as one stream of latent frames, drawn in windows."""

    def __init__(self, family: WanFamily, spec: ClipSpec, size: Size) -> None:
        self._family = family
        self._pipeline = family.pipeline
        self._entry = family.entry
        self._spec = spec
        self._size = size
        self._total = latent_frames(family.entry, spec.frames)
        self._decoder = WanStreamDecoder(family.pipeline.vae)
        self._native = latent_frames(family.entry, family.entry.frames)
        if family.entry.extend == "none" and self._total > self._native:
            raise UnsupportedShape(
                f"{family.entry.name} draws at most {family.entry.frames} frames, not {spec.frames}.",
                remedy="Ask for a shorter clip or another model.",
            )

    @property
    def windows(self) -> int:
        """One, unless the clip is longer than the native length and the row may extend it."""
        return 1 + max(0, -(-(self._total - self._native) // (self._native - PREFIX)))

    def encode(self, window: int) -> WanConditions:
        """See `Clip.encode`."""
        return self._family.conditions(self._spec, window)

    def denoise(
        self,
        window: int,
        conditions: WanConditions,
        on_step: OnStep,
        previous: Latents | None = None,
        resume: dict[str, Any] | None = None,
    ) -> Latents:
        """See `Clip.denoise`; the latents are normalised, as `WanPipeline` returns them."""
        scheduler, steps = self._pipeline.scheduler, self._spec.steps
        if resume is None:
            state = DenoisingState.start(scheduler, steps, self._noise(window))
        else:
            state = DenoisingState.restore(scheduler, steps, resume)
        prefix = None if previous is None else previous.video[:, :, -PREFIX:].to(self._pipeline.device)
        guidance = self._spec.guidance, self._spec.guidance * self._entry.low_noise_guidance
        denoise(state, WanPredictor(self._pipeline, conditions, guidance, prefix), on_step)
        return Latents(state.latents.cpu())

    def decode(self, latents: Latents) -> Iterator[Chunk]:
        """See `Clip.decode`; 1 frame for the first latent frame of the clip, then 4 each."""
        for video in self._decoder.decode(latents.video):
            yield Chunk(to_rgb(video))

    def _noise(self, window: int) -> Tensor:
        vae = self._pipeline.vae.config
        count = self._native - PREFIX if window else self._first
        shape = (
            1,
            vae.z_dim,
            count,
            self._size.height // vae.scale_factor_spatial,
            self._size.width // vae.scale_factor_spatial,
        )
        noise: Tensor = randn_tensor(
            shape,
            generator=window_generator(self._spec.seed, window),
            device=self._pipeline.device,
            dtype=torch.float32,
        )
        return noise

    @property
    def _first(self) -> int:
        """Latent frames of window 0: what is asked for, but a model that continues itself knows full windows only."""
        return self._total if self._entry.extend == "none" else self._native


class WanPredictor:
    """The guided velocity of the right expert, for latents that may continue a clean `prefix`.

    Args:
        guidance: of the experts of high and of low noise.
    """

    def __init__(
        self,
        pipeline: Any,  # noqa: ANN401
        conditions: WanConditions,
        guidance: tuple[float, float],
        prefix: Tensor | None,
    ) -> None:
        self._pipeline = pipeline
        self._prefix = prefix
        self._guidance = guidance
        experts = [expert for expert in (pipeline.transformer, pipeline.transformer_2) if expert is not None]
        self._dtype = experts[0].dtype
        self._prompt = conditions.prompt.to(self._dtype)
        self._negative = None if conditions.negative is None else conditions.negative.to(self._dtype)

    def __call__(self, latents: Tensor, t: Tensor) -> Tensor:
        """See `models.denoise.Predict`; gives the velocity of `latents` only, not of the prefix."""
        clean = 0 if self._prefix is None else self._prefix.shape[2]
        stream = latents if self._prefix is None else torch.cat([self._prefix, latents], dim=2)
        expert, guidance = self._expert(t)
        timestep = self._timestep(expert, stream, t, clean)
        stream = stream.to(self._dtype)
        conditional = _velocity(expert, stream, timestep, self._prompt)
        if self._negative is None:
            return conditional[:, :, clean:]
        unconditional = _velocity(expert, stream, timestep, self._negative)
        return (unconditional + guidance * (conditional - unconditional))[:, :, clean:]

    def _expert(self, t: Tensor) -> tuple[Any, float]:
        """Who draws at `t`, and its guidance.

        Wan 2.2 A14B: `transformer` draws while the noise is high, `transformer_2` below `boundary_ratio`.
        """
        ratio = self._pipeline.config.boundary_ratio
        if ratio is None or t >= ratio * self._pipeline.scheduler.config.num_train_timesteps:
            return self._pipeline.transformer, self._guidance[0]
        return self._pipeline.transformer_2, self._guidance[1]

    def _timestep(self, expert: Any, stream: Tensor, t: Tensor, clean: int) -> Tensor:  # noqa: ANN401
        """One timestep, shape (1,), or one per token, shape (1, tokens), where clean latents get 0."""
        if not clean and not self._pipeline.config.expand_timesteps:
            return t.expand(1)
        _, high, wide = expert.config.patch_size
        frames, height, width = stream.shape[2:]
        times = torch.ones(frames, dtype=torch.float32, device=stream.device) * t
        times[:clean] = 0
        return times.repeat_interleave((height // high) * (width // wide))[None]


def _velocity(expert: Any, stream: Tensor, timestep: Tensor, embeddings: Tensor) -> Tensor:  # noqa: ANN401
    velocity: Tensor = expert(
        hidden_states=stream, timestep=timestep, encoder_hidden_states=embeddings, return_dict=False
    )[0]
    return velocity


class WanStreamDecoder:
    """Decodes a stream of latent frames one at a time, bit-identical to `vae.decode` of the whole.

    `AutoencoderKLWan` is causal and already works frame by frame; it only keeps all output, and its feature cache until
    the next `vae.decode`: 8 GiB at 1280×720. Each stream has a cache of its own, freed with it (private names of
    diffusers 0.42.1, checked by the tests).
    """

    def __init__(self, vae: Any) -> None:  # noqa: ANN401
        self._vae = vae
        vae.clear_cache()
        self._cache = list(vae._feat_map)
        self._started = False
        self._std = 1.0 / _per_channel(vae.config.latents_std)
        self._mean = _per_channel(vae.config.latents_mean)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Normalised latents (1, channels, n, h, w) as video in −1…1: 1 frame for the stream's first, then 4 each."""
        features = self._denormalised(latents)
        for index in range(features.shape[2]):
            yield self._decode_frame(features[:, :, index : index + 1])

    @torch.inference_mode()
    def _denormalised(self, latents: Tensor) -> Tensor:
        """What the decoder takes; of all frames at once as in `vae.decode`, since kernels round by shape."""
        latents = latents.to(self._vae.device, self._vae.dtype)
        features: Tensor = self._vae.post_quant_conv(latents / self._std.to(latents) + self._mean.to(latents))
        return features

    @torch.inference_mode()
    def _decode_frame(self, features: Tensor) -> Tensor:
        vae = self._vae
        video: Tensor = vae.decoder(features, feat_cache=self._cache, feat_idx=[0], first_chunk=not self._started)
        self._started = True
        if vae.config.patch_size is not None:
            video = unpatchify(video, patch_size=vae.config.patch_size)
        return video.clamp(-1.0, 1.0)


def _per_channel(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1, 1)
