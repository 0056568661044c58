"""Run a Wan VAE over a whole clip at once, with the same result as its chunked encode and decode.

The library's `AutoencoderKLWan` walks through time in chunks of one, then four frames, carrying a cache. That keeps
memory flat when a long video is made, but for short training clips it means five passes over small tensors. Here the
two layers that need to know about chunks are given a forward that treats the clip as one sequence; zero padding at
the start of time takes the place of the empty cache. Before a single frame there is nothing but that padding, so a
still needs only the last slice of every kernel, as a 2-D convolution: a third of the work.
`tests/unit/models/tiny/test_full_sequence.py` checks equality.
"""

from types import MethodType

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, patchify, unpatchify
from torch import Tensor
from torch.nn import functional


def _space(layer: WanResample, x: Tensor) -> Tensor:
    """Apply the layer's 2-D part to every frame of `x` (batch, channels, frames, height, width)."""
    batch, channels, frames, height, width = x.shape
    flat = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
    flat = layer.resample(flat)
    made: Tensor = flat.reshape(batch, frames, *flat.shape[1:]).transpose(1, 2)
    return made


def _down_in_time(layer: WanResample, x: Tensor) -> Tensor:
    """Keep the first frame; every later pair of frames, with the frame before it, becomes one."""
    return torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2) if x.shape[2] > 1 else x


def _up_in_time(layer: WanResample, x: Tensor) -> Tensor:
    """Keep the first frame; every later frame becomes two."""
    later = x[:, :, 1:]
    if later.shape[2] == 0:
        return x
    batch, channels, frames, height, width = later.shape
    doubled = layer.time_conv(later).reshape(batch, 2, channels, frames, height, width)
    doubled = doubled.permute(0, 2, 3, 1, 4, 5).reshape(batch, channels, 2 * frames, height, width)
    return torch.cat([x[:, :, :1], doubled], dim=2)


def _convolve(self: WanCausalConv3d, x: Tensor, cache_x: None = None) -> Tensor:
    if x.shape[2] > 1:
        return WanCausalConv3d.forward(self, x)
    around = (self._padding[2], self._padding[0])
    still = functional.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], around)
    return still[:, :, None]


def _forward(self: WanResample, x: Tensor, feat_cache: object = None, feat_idx: object = None) -> Tensor:
    if self.mode == "upsample3d":
        x = _up_in_time(self, x)
    x = _space(self, x)
    if self.mode == "downsample3d":
        x = _down_in_time(self, x)
    return x


def as_full_sequence(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Give the layers of `vae` that know of time whole-clip forwards; from then on use only the two functions below."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.forward = MethodType(_convolve, module)
        if isinstance(module, WanResample):
            module.forward = MethodType(_forward, module)
    return vae


def encode(vae: AutoencoderKLWan, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Encode clips (batch, 3, 1 + 4n, height, width) in [-1, 1].

    Returns:
        mean and log-variance of the latents, each (batch, z_dim, 1 + n, height / 16, width / 16), not normalised.
    """
    x = patchify(clips, patch_size=vae.config.patch_size or 1)
    mean, logvar = vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)
    return mean, logvar


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode latents (batch, z_dim, 1 + n, height, width) into clips (batch, 3, 1 + 4n, 16 height, 16 width).

    Unlike the library's decode it does not clamp, so that gradients flow everywhere.
    """
    x = vae.decoder(vae.post_quant_conv(latents), first_chunk=True)
    clips: Tensor = unpatchify(x, patch_size=vae.config.patch_size or 1)
    return clips
