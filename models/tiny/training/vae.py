"""Train the autoencoder on clips drawn on the fly, then measure it and the spread of its latents.

The schedule runs by wall clock, since the cores it trains on are shared: `minutes` is the time spent training over
all starts. Latents get a little fixed noise and a weak penalty on their size, which keeps them smooth for the
denoiser; the encoder's own variance is not used.
"""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from models.tiny import architecture
from models.tiny.training import full_sequence, precision, state
from models.tiny.training.data.clips import clip
from models.tiny.training.optimise import Average, Optimizers, schedule

LATENT_NOISE = 0.1
SIZE_PENALTY = 1e-3
MUON_LR = 2e-3
ADAMW_LR = 8e-4
LEAST_FAR = 0.002  # in [-1, 1] units: what is even but for noise has no salient parts
LONG_EVERY = 3  # every third step sees one clip of 33 frames instead of two of 17
UNSEEN_SEED = 900_000_000  # clips from here on are never trained on
TRAIN_SEED = 10_000_000


def to_tensor(frames: np.ndarray) -> Tensor:
    """Bytes (frames, height, width, 3) to (3, frames, height, width) in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float().div_(127.5).sub_(1)


def batch(step: int) -> Tensor:
    """The training batch of a step: two clips of 17 frames, or at every third step one of 33."""
    long = step % LONG_EVERY == LONG_EVERY - 1
    seeds = [TRAIN_SEED + 2 * step + index for index in range(1 if long else 2)]
    return torch.stack([to_tensor(clip(seed, frames=33 if long else 17).frames) for seed in seeds])


def psnr(vae: AutoencoderKLWan, count: int = 24, frames: int = 17) -> tuple[float, dict[str, float]]:
    """Mean PSNR in dB over unseen clips, and the mean of each kind of clip."""
    values: dict[str, list[float]] = {}
    with torch.no_grad(), precision.autocast():
        for index in range(count):
            drawn = clip(UNSEEN_SEED + index, frames=frames)
            x = to_tensor(drawn.frames)[None]
            mean, _ = full_sequence.encode(vae, x)
            y = full_sequence.decode(vae, mean).float().clamp(-1, 1)
            mse = ((x - y) / 2).pow(2).mean().item()
            values.setdefault(drawn.spec.kind, []).append(-10 * np.log10(mse))
    every = [value for group in values.values() for value in group]
    return float(np.mean(every)), {kind: round(float(np.mean(group)), 2) for kind, group in sorted(values.items())}


def salience(clips: Tensor) -> Tensor:
    """Weights (batch, 1, frames, height, width), mean at most one, of pixels (batch, 3, frames, height, width).

    Half of the weight is even, half goes by how far a pixel is from its row's median over width and time. With even
    weights alone 26 dB were reached while colours and forms of shapes, a hundredth of a clip, were still lost.
    """
    middle = clips.transpose(2, 3).flatten(3).median(dim=3).values[:, :, None, :, None]
    far = (clips - middle).abs().mean(dim=1, keepdim=True)
    return (1 + far / (far.mean(dim=(1, 2, 3, 4), keepdim=True) + LEAST_FAR)) / 2


def loss_of(vae: AutoencoderKLWan, clips: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training loss and mean squared error (in [-1, 1] units) of a batch of clips."""
    with precision.autocast():
        mean, _ = full_sequence.encode(vae, clips)
        mean = mean.float()
        noisy = mean + LATENT_NOISE * torch.randn(mean.shape, generator=generator)
        made = full_sequence.decode(vae, noisy)
    error, weights = made.float() - clips, salience(clips)
    weighed = (weights * (error.abs() + 4 * error.pow(2))).mean()
    return weighed + SIZE_PENALTY * mean.pow(2).mean(), error.pow(2).mean()


def kernels_last(vae: AutoencoderKLWan) -> None:
    """Lay 3-D kernels out channels last: a fifth faster on a CPU."""
    for param in vae.parameters():
        if param.dim() == 5:
            param.data = param.data.contiguous(memory_format=torch.channels_last_3d)


def split(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Parameters for Muon (kernels and matrices inside the network) and for AdamW (the rest, both ends included)."""
    ends = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "post_quant_conv", "encoder.conv_out")
    muon: list[torch.nn.Parameter] = []
    adamw: list[torch.nn.Parameter] = []
    for name, param in model.named_parameters():
        inner = param.dim() >= 4 and not name.startswith(ends) and min(param.shape[0], param[0].numel()) > 1
        (muon if inner else adamw).append(param)
    return muon, adamw


def train(minutes: float, name: str = "vae", muon: bool = True, save_every_s: float = 120, **changes: Any) -> Path:
    """Train for `minutes` of wall clock in all, going on from the last checkpoint. Returns the checkpoint's path."""
    path = state.folder() / f"{name}.pt"
    log = state.Log(state.folder() / f"{name}.csv")
    torch.manual_seed(1)
    vae = full_sequence.as_full_sequence(architecture.new_vae(**changes))
    kernels_last(vae)
    average = Average(vae, 0.997)
    inner, rest = split(vae)
    optimizers = Optimizers(inner, rest, MUON_LR, ADAMW_LR) if muon else Optimizers([], inner + rest, 0, ADAMW_LR)
    step, spent = 0, 0.0
    if saved := state.load(path):
        vae.load_state_dict(saved["model"])
        average.model.load_state_dict(saved["average"])
        if "optimizers" in saved:
            optimizers.load_state_dict(saved["optimizers"])
        step, spent, average.count = saved["step"], saved["spent_s"], saved["step"]
    if spent >= minutes * 60:
        return path
    full_sequence.as_full_sequence(average.model)
    generator = torch.Generator().manual_seed(step)
    last, saved_at, total, seen = time.monotonic(), spent, 0.0, 0

    def keep() -> None:
        content = {"model": vae.state_dict(), "average": average.model.state_dict(), "changes": changes}
        state.save(path, {**content, "optimizers": optimizers.state_dict(), "step": step, "spent_s": spent})

    while spent < minutes * 60:
        clips = batch(step).contiguous(memory_format=torch.channels_last_3d)
        loss, mse = loss_of(vae, clips, generator)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizers.step(schedule(spent / (minutes * 60), step))
            average.update(vae)
        else:
            vae.zero_grad(set_to_none=True)
        step += 1
        total, seen = total + mse.item(), seen + 1
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            train_db = -10 * float(np.log10(total / seen / 4))
            unseen = psnr(average.model)[0] if step % 300 == 0 else 0.0
            log.row(step=step, spent_s=spent, train_psnr=train_db, unseen_psnr=unseen, grad_norm=float(norm))
            total, seen = 0.0, 0
        if spent - saved_at > save_every_s:
            keep()
            saved_at = spent
    keep()
    value, kinds = psnr(average.model, 64)
    logging.info("unseen clips, dB: %.2f %s", value, kinds)
    return path
