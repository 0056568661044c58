"""Train the denoiser and the text encoder on cached latents by flow matching.

A window is five latents. Mostly all of them are noised alike, as the plain pipeline samples them; in the other
batches the first one or two are given clean, with time zero for their tokens, and only the rest is learnt: that is
how a long film goes on. The schedule runs by wall clock.
"""

import math
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn

from models.tiny import architecture
from models.tiny.training import state
from models.tiny.training.data.captions import caption
from models.tiny.training.export import export
from models.tiny.training.latents import Cache, choose, normalised
from models.tiny.training.optimise import Average, Optimizers, schedule

BATCH = 32
TEXT_LENGTH = 24  # tokens in training; the pipeline pads to TEXT_PADDED
TEXT_PADDED = 512
WINDOW = 5  # latents
TOKENS_PER_LATENT = 4 * 7
DROP_CAPTION = 0.1
PREFIX_SHARE = 0.25  # of the batches
MUON_LR = 3e-3
ADAMW_LR = 1.5e-3
MOTION_WEIGHT = 1.5


class PaddedAttention(WanAttnProcessor):  # type: ignore[misc]  # untyped base
    """Attends to a short text as if it were padded to the pipeline's 512 tokens.

    Padding tokens are all alike, so that many of them weigh as much as few with log(many / few) added to the score.
    The scores are formed by plain matrix products: on a CPU, for windows this small, a quarter faster as a whole than
    the library's fused attention.
    """

    bias: Tensor | None = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As the library's, with the bias on texts."""
        other = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(other))
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, attn.to_v(other)))
        if rotary_emb is not None:
            cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]
            query, key = rotated(query, cos, sin), rotated(key, cos, sin)
        query = query * query.shape[-1] ** -0.5
        query, key, value = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
        scores = (query @ key.mT).float()
        if encoder_hidden_states is not None:
            scores = scores + PaddedAttention.bias
        attended = (scores.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[0](attended)
        return result


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding: pairs of channels of `x` (batch, tokens, heads, channels), turned by their angles."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


class Model(nn.Module):
    """Denoiser and text encoder, trained as one."""

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = architecture.new_denoiser()
        self.text_encoder = architecture.new_text_encoder()
        self.text_encoder.shared.weight.data.normal_(0, 1)
        nn.init.zeros_(self.denoiser.proj_out.weight)
        nn.init.zeros_(self.denoiser.proj_out.bias)
        self.denoiser.set_attn_processor(PaddedAttention())

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Predict noise minus clean: `noisy` (batch, 32, 5, 4, 7), `times` 0..1000 (batch,) or (batch, tokens)."""
        real = mask.bool()
        text = self.text_encoder(ids, mask).last_hidden_state * real[..., None]
        length = real.shape[1]
        count = real.sum(dim=1, keepdim=True).float()
        pad = torch.log((TEXT_PADDED - count) / (length - count).clamp(min=1))
        bias = torch.where(real, torch.zeros_like(pad), pad)
        PaddedAttention.bias = bias[:, None, None, :].to(text.dtype)
        made: Tensor = self.denoiser(noisy, times, text, return_dict=False)[0]
        return made


def split(model: Model) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices inside the blocks for Muon; embeddings, norms and both ends for AdamW."""
    muon: list[nn.Parameter] = []
    adamw: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        inner = param.dim() == 2 and (".blocks." in name or ".block." in name) and "relative" not in name
        (muon if inner else adamw).append(param)
    return muon, adamw


def draw_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Logit-normal noise levels 0..1, pushed towards noise by the shift."""
    sigma = torch.sigmoid(torch.randn(count, generator=generator))
    shift = architecture.SHIFT
    return shift * sigma / (1 + (shift - 1) * sigma)


def motion_weights(window: Tensor) -> Tensor:
    """Weights (batch, 1, time, height, width), mean one: more where the window changes over time."""
    moves = (window - window.median(dim=2, keepdim=True).values).pow(2).mean(dim=1, keepdim=True)
    scale = moves.mean(dim=(2, 3, 4), keepdim=True) + 1e-3
    weights = 1 + MOTION_WEIGHT * (moves / scale).clamp(max=3)
    return weights / weights.mean(dim=(2, 3, 4), keepdim=True)


class Threads:
    """Picks the number of threads by trying: on cores that others use too, one is often faster than two.

    Each step of a parallel loop waits for its slowest thread, and a niced thread that shares its core with other
    work is slow. Of every twelve steps two are done with the other choice, to notice when that changes.
    """

    def __init__(self) -> None:
        self.most = torch.get_num_threads()
        self.seconds = dict.fromkeys((1, self.most), 0.0)
        self.current = self.most

    def best(self) -> int:
        """The faster choice so far; one that was never tried counts as fastest."""
        return min(self.seconds, key=self.seconds.__getitem__)

    def choose(self, step: int) -> None:
        """Set the number of threads for a step."""
        self.current = self.best() if step % 12 > 1 else (1 if self.best() == self.most else self.most)
        torch.set_num_threads(self.current)

    def took(self, seconds: float) -> None:
        """Learn how long a step took with the current choice."""
        known = self.seconds[self.current]
        self.seconds[self.current] = 0.7 * known + 0.3 * seconds if known else seconds


class Trainer:
    """State of one training run, its steps and its checkpoints."""

    def __init__(self, cache: Cache, vae: AutoencoderKLWan, name: str = "denoiser") -> None:
        torch.manual_seed(2)
        self.path = state.folder() / f"{name}.pt"
        self.log = state.Log(state.folder() / f"{name}.csv")
        self.cache, self.vae = cache, vae
        self.mean, self.std = vae.config.latents_mean, vae.config.latents_std
        self.tokenizer = architecture.new_tokenizer()
        self.model = Model()
        self.average = Average(self.model, 0.998)
        self.optimizers = Optimizers(*split(self.model), MUON_LR, ADAMW_LR)
        self.step, self.spent_s = 0, 0.0
        if saved := state.load(self.path):
            self.model.load_state_dict(saved["model"])
            self.average.model.load_state_dict(saved["average"])
            self.optimizers.load_state_dict(saved["optimizers"])
            self.step, self.spent_s = saved["step"], saved["spent_s"]
            self.average.count = self.step

    def save(self) -> None:
        """Write the checkpoint."""
        content: dict[str, Any] = {"model": self.model.state_dict(), "average": self.average.model.state_dict()}
        content |= {"optimizers": self.optimizers.state_dict(), "step": self.step, "spent_s": self.spent_s}
        state.save(self.path, content)

    def export(self, target: Path) -> None:
        """Write the averaged weights as a pipeline."""
        export(self.vae, self.average.model.denoiser, self.average.model.text_encoder, target)

    def batch(self, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (batch, 32, 5, 4, 7) normalised, and their captions' tokens and masks (batch, length)."""
        rng = np.random.default_rng([self.step, 3])
        windows, texts = [], []
        for index in rng.integers(len(self.cache.entries), size=BATCH):
            entry = self.cache.entries[index]
            start, phase = choose(entry, rng, prefix > 0)
            windows.append(entry.latents[:, start : start + WINDOW])
            texts.append("" if rng.random() < DROP_CAPTION else caption(entry.spec, rng, phase))
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
        )
        return normalised(torch.stack(windows), self.mean, self.std), tokens.input_ids, tokens.attention_mask

    def loss(self) -> Tensor:
        """The loss of the current step's batch."""
        rng = np.random.default_rng([self.step, 4])
        generator = torch.Generator().manual_seed(self.step)
        prefix = int(rng.choice([1, 2, 2])) if rng.random() < PREFIX_SHARE else 0
        window, ids, mask = self.batch(prefix)
        sigma = draw_sigmas(BATCH, generator)
        noise = torch.randn(window.shape, generator=generator)
        level = sigma.view(-1, 1, 1, 1, 1).expand(-1, 1, WINDOW, 1, 1).clone()
        level[:, :, :prefix] = 0
        noisy = (1 - level) * window + level * noise
        times = sigma * 1000
        if prefix:
            times = (level[:, 0, :, 0, 0] * 1000).repeat_interleave(TOKENS_PER_LATENT, dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            made = self.model(noisy, times, ids, mask)
        error = (made.float() - (noise - window)).pow(2) * motion_weights(window)
        loss: Tensor = error[:, :, prefix:].mean()
        return loss

    def train(self, minutes: float, export_every_s: float = 480, grow_every: int = 3, most: int = 20_000) -> Path:
        """Train for `minutes` of wall clock in all; the cache grows by a clip every few steps, up to `most`.

        A SIGTERM ends the training after the step it is in, with its checkpoint written.
        """
        last, kept_at, total, seen = time.monotonic(), self.spent_s, 0.0, 0
        threads = Threads()
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
        while self.spent_s < minutes * 60 and not stopped:
            threads.choose(self.step)
            if len(self.cache.entries) < most and self.step % grow_every == 0:
                self.cache.grow(1)
            loss = self.loss()
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            if math.isfinite(norm):
                self.optimizers.step(schedule(self.spent_s / (minutes * 60), self.step, floor=0.03))
                self.average.update(self.model)
            else:
                self.model.zero_grad(set_to_none=True)
            self.step += 1
            total, seen = total + loss.item(), seen + 1
            now = time.monotonic()
            threads.took(now - last)
            self.spent_s, last = self.spent_s + now - last, now
            if self.step % 25 == 0:
                clips = len(self.cache.entries)
                self.log.row(
                    step=self.step,
                    spent_s=self.spent_s,
                    loss=total / seen,
                    grad_norm=float(norm),
                    clips=clips,
                    threads=threads.best(),
                )
                total, seen = 0.0, 0
            if self.spent_s - kept_at > export_every_s:
                self.save()
                self.export(self.path.with_name("weights"))
                kept_at = self.spent_s
        self.save()
        return self.path
