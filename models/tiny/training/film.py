"""A film of many windows, sampled in the plainest way: the yardstick for the evaluation of long clips.

It follows the contract of `models/tiny/README.md` literally, window after window, in one stream of latents.
"""

import torch
from diffusers import WanPipeline
from torch import Tensor

from models.tiny import phases
from models.tiny.prompts import Understood
from models.tiny.training import precision

TOKENS_PER_LATENT = 28


@torch.no_grad()
def window_latents(
    pipeline: WanPipeline, text: str, prefix: Tensor | None, steps: int, guidance: float, generator: torch.Generator
) -> Tensor:
    """Five normalised latents (1, 32, 5, 4, 7); the first ones are `prefix` (1, 32, k, 4, 7) where given."""
    config = pipeline.transformer.config
    given = 0 if prefix is None else prefix.shape[2]
    latents = torch.randn(1, config.in_channels, phases.WINDOW_LATENTS, 4, 7, generator=generator)
    yes, no = pipeline.encode_prompt(text, "", guidance > 1, max_sequence_length=512)
    pipeline.scheduler.set_timesteps(steps)
    for time in pipeline.scheduler.timesteps:
        if prefix is not None:
            latents[:, :, :given] = prefix
        each = time.repeat(phases.WINDOW_LATENTS).clone()
        each[:given] = 0
        at = each.repeat_interleave(TOKENS_PER_LATENT)[None]
        with precision.autocast():
            flow = pipeline.transformer(latents, at, yes, return_dict=False)[0].float()
            if guidance > 1:
                other = pipeline.transformer(latents, at, no, return_dict=False)[0].float()
                flow = other + guidance * (flow - other)
        latents = pipeline.scheduler.step(flow, time, latents, return_dict=False)[0]
    if prefix is not None:
        latents[:, :, :given] = prefix
    return latents


@torch.no_grad()
def film(
    pipeline: WanPipeline, read: Understood, frames: int, seed: int, steps: int = 20, guidance: float = 4.0
) -> Tensor:
    """A clip (frames, 64, 112, 3) in 0..1 of any length."""
    generator = torch.Generator().manual_seed(seed)
    stream = torch.empty(1, pipeline.transformer.config.in_channels, 0, 4, 7)
    for window in range(phases.windows_for(frames)):
        text = phases.prompt_for(read.text, read.kind, window, frames)
        prefix = stream[:, :, -phases.PREFIX_LATENTS :] if window else None
        made = window_latents(pipeline, text, prefix, steps, guidance, generator)
        stream = torch.cat([stream, made[:, :, phases.PREFIX_LATENTS if window else 0 :]], dim=2)
    config = pipeline.vae.config
    shape = (1, -1, 1, 1, 1)
    latents = stream * torch.tensor(config.latents_std).view(shape) + torch.tensor(config.latents_mean).view(shape)
    clip = pipeline.vae.decode(latents).sample[0]
    shown: Tensor = clip.permute(1, 2, 3, 0).add(1).div(2).clamp(0, 1)[:frames]
    return shown
