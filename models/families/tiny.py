"""The bundled model: Wan's classes, small, with words and moments of its own world (`models/tiny`)."""

from __future__ import annotations

import math
from pathlib import Path

from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor

from config.catalogue import ModelEntry
from models.contract import ClipSpec, Understood
from models.families import wan
from models.tiny import phases, prompts


def load(entry: ModelEntry, folder: Path, device: str) -> TinyFamily:
    """The adapter of the bundled weights."""
    pipeline = wan.load(entry, folder, device).pipeline
    pipeline.transformer.set_attn_processor(PaddingAsOne())
    return TinyFamily(pipeline, entry)


class TinyFamily(wan.WanFamily):
    """Gives the model sentences of the form it was taught, for the moment of the film each window shows."""

    def understand(self, prompt: str) -> Understood:
        """The taught words nearest to the prompt's, and those that have none."""
        read = prompts.understand(prompt)
        return Understood(complete=not read.ignored, text=read.text if read.words else "", ignored=read.ignored)

    def texts(self, spec: ClipSpec, window: int) -> tuple[str, str]:
        """See `WanFamily.texts`; a sun's course is spread over the whole film."""
        read = prompts.understand(spec.prompt)
        prompt = phases.prompt_for(read.text, read.kind, window, spec.frames)
        return prompt, prompts.understand(spec.negative_prompt).text if spec.negative_prompt else ""

    def conditions(self, spec: ClipSpec, window: int) -> wan.WanConditions:
        """See `WanFamily.conditions`; cut for `PaddingAsOne`."""
        whole = super().conditions(spec, window)
        negative = None if whole.negative is None else with_one_padding(whole.negative)
        return wan.WanConditions(with_one_padding(whole.prompt), negative)


def with_one_padding(embeddings: Tensor) -> Tensor:
    """Embeddings (1, tokens, width) without their zero rows but one."""
    words = int(embeddings[0].any(dim=-1).sum())
    return embeddings[:, : words + 1]


class PaddingAsOne(WanAttnProcessor):  # type: ignore[misc]  # untyped base
    """Attends to texts whose padding was cut to its first token as if all of it were there.

    Padding tokens are zeros, hence all alike: n of them weigh as much as one with log(n) added to its score. This model
    looks at 140 tokens of video at a time; with 500 of padding beside them a step takes 1.6 times as long.
    """

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As the base class, with the weight of the padding in cross-attention."""
        if encoder_hidden_states is not None:
            length = encoder_hidden_states.shape[1]
            attention_mask = hidden_states.new_zeros(1, 1, 1, length)
            attention_mask[..., -1] = math.log(wan.MAX_PROMPT_TOKENS - length + 1)
        attended: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        return attended
