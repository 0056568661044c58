"""Train the autoencoder on clips drawn on the fly, then measure it and the spread of its latents.

Every fourth step sees stills, many at once: 16 of them cost half as much as a clip of 17 frames, which are much alike.
The others see clips, in which things move, now and then a longer one. All are cropped to where most is to be seen,
until the last part of the training. Latents get a little fixed noise and a weak penalty on their size, which keeps them
smooth for the denoiser; the encoder's own variance is not used.
"""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional

from models.tiny import architecture
from models.tiny.training import full_sequence, precision, state
from models.tiny.training.data.clips import clip
from models.tiny.training.loop import Training
from models.tiny.training.optimise import Optimizers

LATENT_NOISE = 0.1
SIZE_PENALTY = 1e-3
MUON_LR = 2e-3
ADAMW_LR = 8e-4
AROUND = 9  # pixels: how wide the surroundings are that count as much as what stands out in them
LEAST_FAR = 0.002  # in [-1, 1] units: what is even but for noise has no salient parts
CROP = (48, 64)  # rows and columns: 12 of 28 latents
WHOLE_FROM = 0.95  # part of the time after which frames are whole
STILLS = 32  # crops in a step of one process; half as many whole frames, as of clips
CLIPS = 2
STILLS_EVERY = 4  # steps, the first of which sees stills, the others clips of 17 frames
SHAPES_SHARE = 0.5  # of the clips are shapes in any case; so are some of the others
LONG_EVERY = 16  # steps, the last of which sees one of 33 frames
UNSEEN_SEED = 900_000_000  # clips from here on are never trained on
TRAIN_SEED = 10_000_000


def checkpoint() -> Path:
    """Where the state of the training is kept."""
    return state.folder() / "vae.pt"


def to_tensor(frames: np.ndarray) -> Tensor:
    """Bytes (frames, height, width, 3) to (3, frames, height, width) in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float().div_(127.5).sub_(1)


def sample(seed: int, frames: int, whole: bool) -> Tensor:
    """A clip and the weights of its pixels, stacked: (4, frames, height, width), whole or cropped around a pixel.

    The pixel is drawn by its weight, so that most crops show a shape, or a part of one.
    """
    rng = np.random.default_rng([seed, 3])
    drawn = to_tensor(clip(seed, "shape" if rng.random() < SHAPES_SHARE else None, frames=frames).frames)
    weights = salience(drawn[None])[0]
    both = torch.cat([drawn, weights])
    if whole:
        return both
    chances = weights.numpy().ravel().astype(np.float64)
    place = np.unravel_index(rng.choice(chances.size, p=chances / chances.sum()), weights.shape)[2:]
    for axis, (middle, part) in enumerate(zip(place, CROP, strict=True), start=2):
        start = int(middle) - part // 2 + int(rng.integers(-part // 4, part // 4 + 1))
        both = both.narrow(axis, min(max(start, 0), both.shape[axis] - part), part)
    return both


def batch(step: int, rank: int, whole: bool) -> tuple[Tensor, Tensor]:
    """What a process sees in a step, stills or clips: (count, 3, frames, height, width), and weights (count, 1, …)."""
    frames, count = (33, 1) if step % LONG_EVERY == LONG_EVERY - 1 else (17, CLIPS)
    if step % STILLS_EVERY == 0:
        frames, count = 1, STILLS
    first = TRAIN_SEED + (2 * step + rank) * STILLS
    count = max(1, count // 2) if whole else count
    both = torch.stack([sample(first + index, frames, whole) for index in range(count)])
    return both[:, :3], both[:, 3:]


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

    Half of the weight is even, half goes by how far a pixel, or one near it, is from its row's median over width and
    time. With even weights alone 26 dB were reached while colours and forms of shapes, then a hundredth of a clip,
    were still lost; where what lies around a shape did not count, rings were filled and corners rounded.
    """
    middle = clips.transpose(2, 3).flatten(3).median(dim=3).values[:, :, None, :, None]
    far = (clips - middle).abs().mean(dim=1, keepdim=True)
    far = functional.max_pool3d(far, (1, AROUND, AROUND), stride=1, padding=(0, AROUND // 2, AROUND // 2))
    return (1 + far / (far.mean(dim=(1, 2, 3, 4), keepdim=True) + LEAST_FAR)) / 2


def loss_of(vae: AutoencoderKLWan, clips: Tensor, weights: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training loss and mean squared error (in [-1, 1] units) of a batch of clips, by their pixels' weights."""
    with precision.autocast():
        mean, _ = full_sequence.encode(vae, clips)
        mean = mean.float()
        noisy = mean + LATENT_NOISE * torch.randn(mean.shape, generator=generator)
        made = full_sequence.decode(vae, noisy)
    error = made.float() - clips
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


class Trainer(Training[AutoencoderKLWan]):
    """Trains the autoencoder."""

    report_every = 50

    def __init__(self, rank: int = 0, compiled: bool = True) -> None:
        torch.manual_seed(1)
        vae = full_sequence.as_full_sequence(architecture.new_vae())
        kernels_last(vae)
        super().__init__(vae, Optimizers(*split(vae), MUON_LR, ADAMW_LR), 0.997, checkpoint(), rank)
        full_sequence.as_full_sequence(self.average.model)
        self.generator = torch.Generator().manual_seed(self.step * 64 + rank)
        if compiled:
            vae.encoder.compile(dynamic=False)
            vae.decoder.compile(dynamic=False)

    def loss(self) -> tuple[Tensor, float]:
        """The loss, and the mean squared error in [-1, 1] units."""
        clips, weights = batch(self.step, self.rank, self.done > WHOLE_FROM)
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        loss, error = loss_of(self.model, clips, weights, self.generator)
        return loss, error.item()

    def report(self, figure: float, norm: float) -> None:
        """Log PSNR in dB, every 300 steps on unseen clips, too."""
        train_db = -10 * math.log10(figure / 4)
        unseen_db = psnr(self.average.model)[0] if self.step % 300 == 0 else 0.0
        self.log.row(step=self.step, spent_s=self.spent_s, train_psnr=train_db, unseen_psnr=unseen_db, grad_norm=norm)
