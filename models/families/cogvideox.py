"""CogVideoX: diffusers' own denoising loop, and a decoder that streams two latent frames at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXPipeline
from torch import Tensor

from config.catalogue import ModelEntry, Size
from models.contract import Chunk, ClipSpec, Understood
from models.denoise import OnStep
from models.families.base import Latents, read_by
from models.families.pipelines import open_pipeline
from models.families.stepped import Stepped, Watched, native_frames
from models.frames import to_rgb

MAX_PROMPT_TOKENS = 226
"""`max_text_seq_length` of its transformer, to which `CogVideoXPipeline` cuts prompts."""


class WatchedDDIM(Watched, CogVideoXDDIMScheduler):  # type: ignore[misc]  # untyped base
    """Draws no noise at eta 0, which is the pipeline's."""


class WatchedDPM(Watched, CogVideoXDPMScheduler):  # type: ignore[misc]  # untyped base
    """Needs its last guess of the clean latents, which the loop keeps; draws noise at each step."""

    clean: Tensor | None = None

    def step(  # type: ignore[override]  # so differ the schedulers
        self,
        model_output: Tensor,
        old_pred_original_sample: Tensor | None,
        timestep: Tensor,
        timestep_back: Tensor | None,
        sample: Tensor,
        generator: torch.Generator | None = None,  # the pipeline gives it to those who name it
        **arguments: Any,  # noqa: ANN401 - diffusers has no types
    ) -> tuple[Tensor, ...]:
        """The scheduler's step; the first of a loop that was entered late gets the guess that was saved."""
        old = self.clean if old_pred_original_sample is None else old_pred_original_sample
        stepped: tuple[Tensor, ...] = CogVideoXDPMScheduler.step(
            self, model_output, old, timestep, timestep_back, sample, generator=generator, **arguments
        )
        self.latents, self.clean = stepped[0].to(sample.dtype), stepped[1]
        return stepped

    def save(self) -> dict[str, Any]:
        """See `Watched.save`."""
        return {**super().save(), "clean": self.clean}

    def enter(self, saved: dict[str, Any], step: int) -> None:
        """See `Watched.enter`."""
        super().enter(saved, step)
        self.clean = saved.get("clean")


class SteppedCogVideoX(Stepped, CogVideoXPipeline):  # type: ignore[misc]  # untyped base
    """`CogVideoXPipeline` that tells its steps."""


def load(entry: ModelEntry, folder: Path, device: str) -> CogVideoXFamily:
    """The adapter of a CogVideoX pipeline in `folder`."""
    pipeline = open_pipeline(SteppedCogVideoX, entry, folder, device)
    watched = WatchedDPM if isinstance(pipeline.scheduler, CogVideoXDPMScheduler) else WatchedDDIM
    pipeline.scheduler = watched.from_config(pipeline.scheduler.config)
    return CogVideoXFamily(pipeline, entry)


class CogVideoXFamily:
    """Adapter of a loaded pipeline."""

    audio_sample_rate: int | None = None

    def __init__(self, pipeline: Any, entry: ModelEntry) -> None:  # noqa: ANN401 - diffusers has no types
        self.pipeline = pipeline
        self.entry = entry

    def understand(self, prompt: str) -> Understood:
        """As much of it as the text encoder is given."""
        return read_by(self.pipeline.tokenizer, prompt, MAX_PROMPT_TOKENS)

    def clip(self, spec: ClipSpec, size: Size) -> CogVideoXClip:
        """See `Family.clip`."""
        return CogVideoXClip(self, spec, size)


class CogVideoXClip:
    """One clip of at most the native length."""

    windows = 1

    def __init__(self, family: CogVideoXFamily, spec: ClipSpec, size: Size) -> None:
        self._pipeline = family.pipeline
        self._spec = spec
        self._size = size
        self._frames = native_frames(family.entry, spec.frames)

    @torch.inference_mode()
    def encode(self, window: int) -> tuple[Tensor, Tensor | None]:
        """Embeddings of the prompt, and of the negative one where there is guidance."""
        prompt, negative = self._pipeline.encode_prompt(
            self._spec.prompt,
            negative_prompt=self._spec.negative_prompt,
            do_classifier_free_guidance=self._spec.guidance > 1,
            max_sequence_length=MAX_PROMPT_TOKENS,
        )
        return prompt, negative

    def denoise(
        self,
        window: int,
        conditions: tuple[Tensor, Tensor | None],
        on_step: OnStep,
        previous: Latents | None = None,
        resume: dict[str, Any] | None = None,
    ) -> Latents:
        """See `Clip.denoise`; frames come before channels, as the pipeline returns them."""
        prompt, negative = conditions
        latents = self._pipeline.run(
            self._spec,
            on_step,
            resume,
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            guidance_scale=self._spec.guidance,
            height=self._size.height,
            width=self._size.width,
            num_frames=self._frames,
        )[0]
        return Latents(latents.cpu())

    def decode(self, latents: Latents) -> Iterator[Chunk]:
        """See `Clip.decode`."""
        vae = self._pipeline.vae
        for video in stream_decode(vae, latents.video.permute(0, 2, 1, 3, 4) / vae.config.scaling_factor):
            yield Chunk(to_rgb(video))


def stream_decode(vae: Any, latents: Tensor) -> Iterator[Tensor]:  # noqa: ANN401
    """What `AutoencoderKLCogVideoX.decode` gives for (1, channels, n, h, w), piece by piece: video in −1…1.

    The VAE takes `num_latent_frames_batch_size` (2) latent frames at a time and an odd one with the first two, and
    hands the last features on in `conv_cache`; only its output is kept whole in diffusers, not here.
    """
    size = vae.num_latent_frames_batch_size
    count = latents.shape[2]
    starts = range(size + count % size, count, size) if count >= size else range(0)
    cache = None
    for start, end in zip((0, *starts), (*starts, count), strict=True):
        video, cache = _decode_piece(vae, latents[:, :, start:end], cache)
        yield video


@torch.inference_mode()
def _decode_piece(vae: Any, latents: Tensor, cache: Any) -> tuple[Tensor, Any]:  # noqa: ANN401
    latents = latents.to(vae.device, vae.dtype)
    if vae.post_quant_conv is not None:
        latents = vae.post_quant_conv(latents)
    video, cache = vae.decoder(latents, conv_cache=cache)
    return video, cache
