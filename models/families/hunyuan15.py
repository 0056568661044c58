"""HunyuanVideo 1.5: diffusers' own denoising loop; its VAE attends over time, so a clip is decoded whole, in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanVideo15Pipeline
from torch import Tensor

from config.catalogue import ModelEntry, Size
from models.contract import Chunk, ClipSpec, Understood
from models.denoise import OnStep
from models.families.base import Latents, read_by
from models.families.pipelines import open_pipeline
from models.families.stepped import Stepped, WatchedEuler, in_pieces, native_frames
from models.frames import to_rgb

Embeddings = dict[str, Tensor]
"""Arguments of the pipeline: embeddings and masks of both text encoders, of the prompt and the negative one."""


class SteppedHunyuanVideo15(Stepped, HunyuanVideo15Pipeline):  # type: ignore[misc]  # untyped base
    """`HunyuanVideo15Pipeline` that tells its steps."""


def load(entry: ModelEntry, folder: Path, device: str) -> HunyuanVideo15Family:
    """The adapter of a HunyuanVideo 1.5 pipeline in `folder`.

    The VAE is tiled in space, as its makers' example does: whole, a native clip would not fit beside the transformer.
    """
    pipeline = open_pipeline(SteppedHunyuanVideo15, entry, folder, device)
    pipeline.scheduler = WatchedEuler.from_config(pipeline.scheduler.config)
    pipeline.vae.enable_tiling()
    return HunyuanVideo15Family(pipeline, entry)


class HunyuanVideo15Family:
    """Adapter of a loaded pipeline."""

    audio_sample_rate: int | None = None

    def __init__(self, pipeline: Any, entry: ModelEntry) -> None:  # noqa: ANN401 - diffusers has no types
        self.pipeline = pipeline
        self.entry = entry

    def understand(self, prompt: str) -> Understood:
        """As much of it as the text encoder is given."""
        return read_by(self.pipeline.tokenizer, prompt, self.pipeline.tokenizer_max_length)

    def clip(self, spec: ClipSpec, size: Size) -> HunyuanVideo15Clip:
        """See `Family.clip`."""
        return HunyuanVideo15Clip(self, spec, size)


class HunyuanVideo15Clip:
    """One clip of at most the native length."""

    windows = 1

    def __init__(self, family: HunyuanVideo15Family, spec: ClipSpec, size: Size) -> None:
        self._pipeline = family.pipeline
        self._spec = spec
        self._size = size
        self._frames = native_frames(family.entry, spec.frames)

    @torch.inference_mode()
    def encode(self, window: int) -> Embeddings:
        """Embeddings of the prompt and of the negative one; the guider takes both or one, as the guidance asks."""
        prompt = self._embeddings(self._spec.prompt, "")
        return prompt | self._embeddings(self._spec.negative_prompt, "negative_")

    def _embeddings(self, text: str, prefix: str) -> Embeddings:
        names = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")
        tensors = self._pipeline.encode_prompt(text, dtype=self._pipeline.transformer.dtype)
        return {f"{prefix}{name}": tensor for name, tensor in zip(names, tensors, strict=True)}

    def denoise(
        self,
        window: int,
        conditions: Embeddings,
        on_step: OnStep,
        previous: Latents | None = None,
        resume: dict[str, Any] | None = None,
    ) -> Latents:
        """See `Clip.denoise`; the latents still carry the VAE's scaling factor, as the pipeline returns them."""
        self._pipeline.guider = self._pipeline.guider.new(guidance_scale=self._spec.guidance)
        latents = self._pipeline.run(
            self._spec,
            on_step,
            resume,
            height=self._size.height,
            width=self._size.width,
            num_frames=self._frames,
            **conditions,
        )[0]
        return Latents(latents.cpu())

    def decode(self, latents: Latents) -> Iterator[Chunk]:
        """See `Clip.decode`."""
        for video in in_pieces(self._whole(latents.video)):
            yield Chunk(to_rgb(video))

    @torch.inference_mode()
    def _whole(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
        video: Tensor = vae.decode(latents, return_dict=False)[0]
        return video
