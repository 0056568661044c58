"""The denoising loop: one state object, one step at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents, timestep) → the guided prediction of the network, of the latents' shape."""

NOT_STATE = frozenset({"_internal_dict", "solver_p"})
"""Attributes of a scheduler that are its configuration."""


class Loop(Protocol):
    """A denoising loop between two steps."""

    @property
    def step(self) -> int:
        """Steps done."""

    def save(self) -> dict[str, Any]:
        """All that the rest depends on besides conditions: JSON and tensors, not yet copied."""


OnStep = Callable[[Loop], None]
"""Told after each step; may raise to stop before the next one."""


@dataclass
class DenoisingState:
    """Everything the rest of a denoising run depends on, besides its conditions.

    What `save` gives between two steps, restored and run to the end, gives bit-identical latents.

    Attributes:
        latents: noisy now, clean after the last step; float32, shape (1, channels, latent frames, height, width).
        scheduler: a diffusers scheduler of this run alone: multi-step solvers keep their history in it.
        step: steps done.
    """

    latents: Tensor
    scheduler: Any
    step: int = 0

    @classmethod
    def start(cls, scheduler: Any, steps: int, latents: Tensor) -> DenoisingState:  # noqa: ANN401 - diffusers has no types
        """State before the first of `steps` steps, with a fresh scheduler configured like `scheduler`."""
        own = type(scheduler).from_config(scheduler.config)
        own.set_timesteps(steps, device=latents.device)
        own.set_begin_index(0)
        return cls(latents, own)

    @classmethod
    def restore(cls, scheduler: Any, steps: int, saved: dict[str, Any]) -> DenoisingState:  # noqa: ANN401
        """The state that was saved by a run of a scheduler configured like `scheduler`."""
        state = cls.start(scheduler, steps, saved["latents"])
        vars(state.scheduler).update(saved["scheduler"])
        state.step = saved["step"]
        return state

    def save(self) -> dict[str, Any]:
        """See `Loop.save`."""
        scheduler = {name: value for name, value in vars(self.scheduler).items() if name not in NOT_STATE}
        return {"latents": self.latents, "step": self.step, "scheduler": scheduler}

    @property
    def timesteps(self) -> Tensor:
        """All timesteps of the run, descending; shape (steps,)."""
        timesteps: Tensor = self.scheduler.timesteps
        return timesteps


@torch.inference_mode()
def denoise(state: DenoisingState, predict: Predict, on_step: OnStep) -> None:
    """Advance `state` to its last step in place."""
    for t in state.timesteps[state.step :]:
        prediction = predict(state.latents, t)
        state.latents = state.scheduler.step(prediction, t, state.latents, return_dict=False)[0]
        state.step += 1
        on_step(state)
