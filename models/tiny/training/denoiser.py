"""Train the denoiser and the text encoder on cached latents by flow matching, in several processes.

First only stills, one latent each: colours, shapes and backgrounds are learnt on them for a fifth of the work. Then
windows of five latents, with a batch of stills now and then. Mostly all latents of a window are noised alike, as the
plain pipeline samples them; in the other batches the first one or two are given clean, with time zero for their
tokens, and only the rest is learnt: that is how a long film goes on.
"""

import numpy as np
import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn

from models.tiny import architecture
from models.tiny.training import precision, state
from models.tiny.training.data.captions import caption
from models.tiny.training.latents import Cache, choose, normalised
from models.tiny.training.loop import Training
from models.tiny.training.optimise import Optimizers

BATCH = 16  # windows in a step of one process
STILLS_BATCH = 64
STILLS_SHARE = 0.3  # of the batches, once windows are trained
TEXT_LENGTH = 18  # tokens in training; the pipeline pads to TEXT_PADDED
TEXT_PADDED = 512
WINDOW = 5  # latents
TOKENS_PER_LATENT = 4 * 7
DROP_CAPTION = 0.1
PREFIX_SHARE = 0.2  # of the batches
MUON_LR = 5e-3
ADAMW_LR = 2e-3
FOREGROUND_WEIGHT = 4.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of neighbouring channels by the angles of their tokens' places."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


class PaddedAttention(WanAttnProcessor):  # type: ignore[misc]  # untyped base
    """The library's attention by plain matrix products, for texts as if they were padded to 512 tokens.

    Padding tokens are all alike, so that many of them weigh as much as few with log(many / few) added to the score.
    On a CPU the backward pass of the fused attention takes four times as long as that of plain products.
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
        value = attn.to_v(other)
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, value))
        if rotary_emb is not None:
            cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        query = (query * query.shape[-1] ** -0.5).to(value.dtype)
        query, key, value = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
        scores = (query @ key.mT).float()
        if encoder_hidden_states is not None and PaddedAttention.bias is not None:
            scores = scores + PaddedAttention.bias
        mixed = torch.softmax(scores, dim=-1).to(value.dtype) @ value
        attended: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return attended


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
        PaddedAttention.bias = bias[:, None, None, :]
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


def foreground_weights(window: Tensor, level: Tensor) -> Tensor:
    """Weights of errors, mean one over (time, height, width) of a window (batch, channels, time, height, width).

    More where a window changes over time, or a still along its rows. Less so the more noise there is (`level`, 0..1):
    where one cannot see what will be there, such weights would teach to promise too much.
    """
    axis = 2 if window.shape[2] > 1 else 4
    differs = (window - window.median(dim=axis, keepdim=True).values).pow(2).mean(dim=1, keepdim=True)
    scale = differs.mean(dim=(2, 3, 4), keepdim=True) + 1e-3
    weights = 1 + FOREGROUND_WEIGHT * (1 - level) ** 2 * (differs / scale).clamp(max=3)
    return weights / weights.mean(dim=(2, 3, 4), keepdim=True)


class Trainer(Training[Model]):
    """Trains the denoiser and the text encoder, for the first `stills_minutes` of wall clock on stills alone."""

    report_every = 25

    def __init__(
        self, stills: Cache, clips: Cache, stills_minutes: float, rank: int = 0, compiled: bool = True
    ) -> None:
        torch.manual_seed(2)
        model = Model()
        super().__init__(
            model, Optimizers(*split(model), MUON_LR, ADAMW_LR), 0.995, state.folder() / "denoiser.pt", rank
        )
        self.stills, self.clips, self.stills_minutes = stills, clips, stills_minutes
        saved = state.load(state.folder() / "statistics.pt") or {}
        self.mean, self.std = saved["mean"], saved["std"]
        self.tokenizer = architecture.new_tokenizer()
        if compiled:
            model.denoiser.compile_repeated_blocks(fullgraph=True)

    def batch(self, rng: np.random.Generator, still: bool, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (batch, 32, 5 or 1, 4, 7) normalised, and their captions' tokens and masks (batch, length)."""
        windows, texts = [], []
        picked = self.stills.pick(STILLS_BATCH, rng) if still else self.clips.pick(BATCH, rng)
        for entry in picked:
            start, phase = choose(entry, rng, prefix > 0)
            windows.append(entry.latents[:, start : start + WINDOW])
            texts.append("" if rng.random() < DROP_CAPTION else caption(entry.spec, rng, phase))
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
        )
        return normalised(torch.stack(windows), self.mean, self.std), tokens.input_ids, tokens.attention_mask

    def loss(self) -> tuple[Tensor, float]:
        """The loss, twice."""
        only_stills = self.spent_s < self.stills_minutes * 60 or not self.clips.entries
        alike = np.random.default_rng([self.step, 4])  # what all processes must agree on
        still = only_stills or bool(alike.random() < STILLS_SHARE)
        prefix = int(alike.choice([1, 2, 2])) if alike.random() < PREFIX_SHARE and not still else 0
        window, ids, mask = self.batch(np.random.default_rng([self.step, 3, self.rank]), still, prefix)
        generator = torch.Generator().manual_seed(self.step * 64 + self.rank)
        count, _, length, _, _ = window.shape
        sigma = draw_sigmas(count, generator)
        noise = torch.randn(window.shape, generator=generator)
        level = sigma.view(-1, 1, 1, 1, 1).expand(-1, 1, length, 1, 1).clone()
        level[:, :, :prefix] = 0
        noisy = (1 - level) * window + level * noise
        times = sigma * 1000
        if prefix:
            times = (level[:, 0, :, 0, 0] * 1000).repeat_interleave(TOKENS_PER_LATENT, dim=1)
        with precision.autocast():
            made = self.model(noisy, times, ids, mask)
        error = (made.float() - (noise - window)).pow(2) * foreground_weights(window, sigma.view(-1, 1, 1, 1, 1))
        loss: Tensor = error[:, :, prefix:].mean()
        return loss, loss.item()

    def align(self) -> None:
        """Take up what was encoded meanwhile, too."""
        self.stills.refresh()
        self.clips.refresh()
        super().align()

    def report(self, figure: float, norm: float) -> None:
        """Log the loss."""
        clips = len(self.clips.entries)
        self.log.row(step=self.step, spent_s=self.spent_s, loss=figure, grad_norm=norm, clips=clips)
