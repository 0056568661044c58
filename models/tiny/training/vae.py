"""Train the autoencoder on clips drawn on the fly, then measure it and the spread of its latents.

Two steps of three see stills, many at once: a clip of 17 frames costs twice as much as 16 stills, and its frames are
much alike. The third sees a clip, now and then a longer one. The schedule runs by wall clock, since the cores it
trains on are shared: `minutes` is the time spent training over all starts. Latents get a little fixed noise and a weak penalty on their size, which keeps them smooth for the
denoiser; the encoder's own variance is not used.
"""

import math
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from models.tiny import architecture
from models.tiny.training import full_sequence, precision, state, together
from models.tiny.training.data.clips import clip
from models.tiny.training.optimise import Average, Optimizers, plateau

LATENT_NOISE = 0.1
SIZE_PENALTY = 1e-3
MUON_LR = 2e-3
ADAMW_LR = 8e-4
LEAST_FAR = 0.002  # in [-1, 1] units: what is even but for noise has no salient parts
STILLS = 16  # in a step of one process
CLIP_EVERY = 3  # steps, the last of which sees a clip of 17 frames instead of stills
LONG_EVERY = 15  # steps, the last of which sees one of 33 frames
UNSEEN_SEED = 900_000_000  # clips from here on are never trained on
TRAIN_SEED = 10_000_000


def checkpoint() -> Path:
    """Where the state of the training is kept."""
    return state.folder() / "vae.pt"


def to_tensor(frames: np.ndarray) -> Tensor:
    """Bytes (frames, height, width, 3) to (3, frames, height, width) in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float().div_(127.5).sub_(1)


def batch(step: int, rank: int) -> Tensor:
    """What a process sees in a step: (count, 3, frames, height, width), stills or a clip."""
    last = (step % LONG_EVERY == LONG_EVERY - 1, step % CLIP_EVERY == CLIP_EVERY - 1)
    frames, count = {(True, True): (33, 1), (False, True): (17, 1)}.get(last, (1, STILLS))
    first = TRAIN_SEED + (2 * step + rank) * STILLS
    return torch.stack([to_tensor(clip(first + index, frames=frames).frames) for index in range(count)])


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


class Trainer:
    """State of one training run, its steps and its checkpoints; process `rank` of those that joined."""

    def __init__(self, rank: int = 0, compiled: bool = True) -> None:
        torch.manual_seed(1)
        self.rank, self.log = rank, state.Log(state.folder() / "vae.csv")
        self.vae = full_sequence.as_full_sequence(architecture.new_vae())
        kernels_last(self.vae)
        self.average = Average(self.vae, 0.997)
        self.optimizers = Optimizers(*split(self.vae), MUON_LR, ADAMW_LR)
        self.step, self.spent_s = 0, 0.0
        if saved := state.load(checkpoint()):
            self.vae.load_state_dict(saved["model"])
            self.average.model.load_state_dict(saved["average"])
            if "optimizers" in saved:
                self.optimizers.load_state_dict(saved["optimizers"])
            self.step, self.spent_s, self.average.count = saved["step"], saved["spent_s"], saved["step"]
        full_sequence.as_full_sequence(self.average.model)
        if compiled:
            self.vae.encoder.compile(dynamic=False)
            self.vae.decoder.compile(dynamic=False)

    def save(self) -> None:
        """Write the checkpoint."""
        content: dict[str, Any] = {"model": self.vae.state_dict(), "average": self.average.model.state_dict()}
        content |= {"optimizers": self.optimizers.state_dict(), "step": self.step, "spent_s": self.spent_s}
        state.save(checkpoint(), content)

    def train(self, minutes: float, save_every_s: float = 120) -> None:
        """Train for `minutes` of wall clock in all.

        A SIGTERM to any process ends the training after the step it is in, with its checkpoint written.
        """
        generator = torch.Generator().manual_seed(self.step * 64 + self.rank)
        last, kept_at, errors = time.monotonic(), self.spent_s, list[float]()
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
        while self.spent_s < minutes * 60:
            clips = batch(self.step, self.rank).contiguous(memory_format=torch.channels_last_3d)
            loss, mse = loss_of(self.vae, clips, generator)
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            now = time.monotonic()
            spent_s, last = self.spent_s + now - last, now
            error, self.spent_s, stops = together.average(self.vae, [mse.item(), spent_s, float(len(stopped))])
            norm = self._update(self.spent_s / (minutes * 60))
            errors.append(error)
            if self.step % 50 == 0:
                together.align(self.vae)
                if self.rank == 0:
                    self._report(float(np.mean(errors)), norm)
                errors = []
            if stops > 0:
                break
            if self.rank == 0 and self.spent_s - kept_at > save_every_s:
                self.save()
                kept_at = self.spent_s
        if self.rank == 0:
            self.save()

    def _update(self, done: float) -> float:
        """Step along the gradients at the part `done` (0..1) of the time; returns their norm."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0))
        if math.isfinite(norm):
            self.optimizers.step(plateau(done, self.step))
            self.average.update(self.vae)
        else:
            self.vae.zero_grad(set_to_none=True)
        self.step += 1
        return norm

    def _report(self, error: float, norm: float) -> None:
        train_db = -10 * math.log10(error / 4)
        unseen_db = psnr(self.average.model)[0] if self.step % 300 == 0 else 0.0
        self.log.row(step=self.step, spent_s=self.spent_s, train_psnr=train_db, unseen_psnr=unseen_db, grad_norm=norm)
