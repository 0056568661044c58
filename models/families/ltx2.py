"""LTX-2: video and sound drawn together by diffusers' own loop, decoded whole, the sound cut to its frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LTX2Pipeline
from numpy.typing import NDArray
from torch import Tensor

from config.catalogue import ModelEntry, Size
from models.contract import Chunk, ClipSpec, Understood
from models.denoise import OnStep
from models.families.base import Latents, read_by
from models.families.pipelines import open_pipeline
from models.families.stepped import Stepped, WatchedEuler, in_pieces, native_frames
from models.frames import to_rgb

MAX_PROMPT_TOKENS = 1024
"""What `LTX2Pipeline` cuts prompts to by default."""

PLAIN_GUIDANCE = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
"""Classifier-free guidance alone, as LTX-2's model card samples; the pipeline's defaults are those of LTX-2.3. The
audio follows the video in all four."""

Embeddings = dict[str, Tensor]
"""Arguments of the pipeline: embeddings and masks of the prompt and the negative one."""


class SteppedLTX2(Stepped, LTX2Pipeline):  # type: ignore[misc]  # untyped base
    """`LTX2Pipeline` that tells its steps; its loop draws sound beside the picture, with a copy of the scheduler."""

    def prepare_audio_latents(self, *arguments: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """The noise to begin with, or the latents to go on with, which the pipeline would take for clean ones."""
        latents: Tensor
        if self._resume is None:
            latents = super().prepare_audio_latents(*arguments, **named)
        else:
            latents = self._resume["twin"]["latents"]
        return latents


def load(entry: ModelEntry, folder: Path, device: str) -> LTX2Family:
    """The adapter of an LTX-2 pipeline in `folder`."""
    pipeline = open_pipeline(SteppedLTX2, entry, folder, device)
    pipeline.scheduler = WatchedEuler.from_config(pipeline.scheduler.config)
    return LTX2Family(pipeline, entry)


class LTX2Family:
    """Adapter of a loaded pipeline."""

    def __init__(self, pipeline: Any, entry: ModelEntry) -> None:  # noqa: ANN401 - diffusers has no types
        self.pipeline = pipeline
        self.entry = entry

    @property
    def audio_sample_rate(self) -> int | None:
        """Hz of the vocoder's output."""
        return int(self.pipeline.vocoder.config.output_sampling_rate)

    def understand(self, prompt: str) -> Understood:
        """As much of it as the text encoder is given."""
        return read_by(self.pipeline.tokenizer, prompt, MAX_PROMPT_TOKENS)

    def clip(self, spec: ClipSpec, size: Size) -> LTX2Clip:
        """See `Family.clip`."""
        return LTX2Clip(self, spec, size)


class LTX2Clip:
    """One clip of at most the native length, with sound."""

    windows = 1

    def __init__(self, family: LTX2Family, spec: ClipSpec, size: Size) -> None:
        self._pipeline = family.pipeline
        self._spec = spec
        self._size = size
        self._fps = family.entry.fps
        self._rate = family.audio_sample_rate or 0
        self._frames = native_frames(family.entry, spec.frames)

    @torch.inference_mode()
    def encode(self, window: int) -> Embeddings:
        """Embeddings of the prompt, and of the negative one where there is guidance."""
        names = (
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        )
        tensors = self._pipeline.encode_prompt(
            self._spec.prompt,
            negative_prompt=self._spec.negative_prompt,
            do_classifier_free_guidance=self._spec.guidance > 1,
            max_sequence_length=MAX_PROMPT_TOKENS,
        )
        return dict(zip(names, tensors, strict=True))

    def denoise(
        self,
        window: int,
        conditions: Embeddings,
        on_step: OnStep,
        previous: Latents | None = None,
        resume: dict[str, Any] | None = None,
    ) -> Latents:
        """See `Clip.denoise`; both latents are denormalised, as the pipeline returns them."""
        video, audio = self._pipeline.run(
            self._spec,
            on_step,
            resume,
            guidance_scale=self._spec.guidance,
            audio_guidance_scale=None,
            audio_stg_scale=None,
            audio_modality_scale=None,
            audio_guidance_rescale=None,
            height=self._size.height,
            width=self._size.width,
            num_frames=self._frames,
            frame_rate=self._fps,
            **PLAIN_GUIDANCE,
            **conditions,
        )
        return Latents(video.cpu(), audio.cpu())

    def decode(self, latents: Latents) -> Iterator[Chunk]:
        """See `Clip.decode`; each chunk has the sound of its own frames, in total that of the asked ones."""
        sound = self._sound(latents.audio)
        first = 0
        for video in in_pieces(self._video(latents.video)[:, :, : self._spec.frames]):
            frames = to_rgb(video)
            yield Chunk(frames, sound[self._sample(first) : self._sample(first + len(frames))])
            first += len(frames)

    def _sample(self, frame: int) -> int:
        """Number of the audio sample that plays when `frame` appears."""
        return round(frame * self._rate / self._fps)

    @torch.inference_mode()
    def _video(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        timestep = torch.zeros(1, device=vae.device, dtype=vae.dtype) if vae.config.timestep_conditioning else None
        video: Tensor = vae.decode(latents.to(vae.device, vae.dtype), timestep, return_dict=False)[0]
        return video

    @torch.inference_mode()
    def _sound(self, latents: Tensor | None) -> NDArray[np.float32]:
        """PCM of exactly the asked frames, shape (samples, channels); silence where the model's ends early."""
        if latents is None:
            raise ValueError("LTX-2 always draws sound")
        vae = self._pipeline.audio_vae
        spectrogram = vae.decode(latents.to(vae.device, vae.dtype), return_dict=False)[0]
        wave = self._pipeline.vocoder(spectrogram)[0].float().clamp(-1, 1).T.cpu().numpy()
        samples = self._sample(self._spec.frames)
        padded: NDArray[np.float32] = np.pad(wave[:samples], ((0, max(0, samples - len(wave))), (0, 0)))
        return padded
