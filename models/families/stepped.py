"""Families whose denoising loop is left to diffusers: it is watched, stopped and entered late from outside.

Every loop of diffusers asks `self.interrupt` before each step, and passes over the step if that is true. `Stepped`,
mixed into a pipeline class, says so of the steps that a snapshot has behind it, and otherwise uses the moment to tell
how many steps are done; the listener may raise, which ends the loop at once. What the loops keep in local variables
passes through the scheduler's `step`, where `Watched`, mixed into a scheduler class, sees it. The steps themselves are
those of the plain pipeline, so the result is too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from config.catalogue import ModelEntry
from models.contract import ClipSpec
from models.denoise import OnStep
from models.errors import UnsupportedShape
from models.families.base import latent_frames
from models.seeds import window_generator


class Watched:
    """Mixed in before a scheduler class whose only state is the number of the step.

    Attributes:
        first: steps that the loop passes over before its first one.
        latents: as the loop has them after the last step.
        twin: the copy that a loop made of this scheduler, for sound.
    """

    first = 0
    latents: Tensor | None = None
    twin: Self | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin where the loop really does."""
        super().set_begin_index(begin_index + self.first)  # type: ignore[misc]  # the scheduler class

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        **arguments: Any,  # noqa: ANN401 - diffusers has no types
    ) -> tuple[Tensor, ...]:
        """The scheduler's step."""
        stepped: tuple[Tensor, ...] = super().step(model_output, timestep, sample, **arguments)  # type: ignore[misc]
        self.latents = stepped[0].to(sample.dtype)  # so do the loops
        return stepped

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        self.twin = copy.copy(self)
        return self.twin

    def save(self) -> dict[str, Any]:
        """What a loop needs to go on after the last step."""
        return {"latents": self.latents}

    def enter(self, saved: dict[str, Any], step: int) -> None:
        """Prepare for a loop whose first `step` steps are passed over; `saved` is {} for a new one."""
        self.first, self.latents, self.twin = step, saved.get("latents"), None


class WatchedEuler(Watched, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # untyped base
    """Of HunyuanVideo 1.5 and LTX-2."""


class Stepped:
    """Mixed in before a pipeline class whose `__call__` is then run by `run`; its scheduler is a `Watched` one."""

    scheduler: Any
    _on_step: OnStep | None = None
    _index = -1
    _resume: dict[str, Any] | None = None
    _generator: torch.Generator

    @property
    def interrupt(self) -> bool:
        """Whether to pass over the next step; tells the listener of the one before it."""
        self._index += 1
        if self._on_step and self._index > self.scheduler.first:
            self._on_step(self)
        return self._index < int(self.scheduler.first)

    @property
    def step(self) -> int:
        """See `Loop.step`."""
        return self._index

    def save(self) -> dict[str, Any]:
        """See `Loop.save`."""
        twin = self.scheduler.twin
        return {
            "step": self._index,
            "scheduler": self.scheduler.save(),
            "twin": twin and twin.save(),
            "generator": self._generator.get_state(),
        }

    def prepare_latents(self, *arguments: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """The noise to begin with, or the latents to go on with."""
        if self._resume is None:
            return super().prepare_latents(*arguments, **named)  # type: ignore[misc,no-any-return]  # the pipeline class
        latents: Tensor = self._resume["scheduler"]["latents"]
        return latents

    @torch.inference_mode()
    def run(
        self,
        spec: ClipSpec,
        on_step: OnStep,
        resume: dict[str, Any] | None,
        **arguments: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Denoise without decoding; gives what the pipeline returns for `output_type="latent"`, as a tuple."""
        self._on_step, self._index, self._resume = on_step, -1, resume
        self._generator = window_generator(spec.seed, 0)
        first = 0
        if resume:
            first = resume["step"]
            self._generator.set_state(resume["generator"])
        self.scheduler.enter(resume["scheduler"] if resume else {}, first)
        try:
            output = self(  # type: ignore[operator]  # the pipeline class this is mixed into
                num_inference_steps=spec.steps,
                generator=self._generator,
                output_type="latent",
                return_dict=False,
                **arguments,
            )
            if first < spec.steps:
                self._index = spec.steps
                on_step(self)
        finally:
            self._on_step = self._resume = None
            self.scheduler.enter({}, 0)
        return output


def native_frames(entry: ModelEntry, frames: int) -> int:
    """The next count of frames the model can draw in one window.

    Raises:
        UnsupportedShape: it is more than the model's native length.
    """
    if frames > entry.frames:
        raise UnsupportedShape(
            f"{entry.name} draws at most {entry.frames} frames, not {frames}.",
            remedy="Ask for a shorter clip or another model.",
        )
    return 1 + entry.frame_step * (latent_frames(entry, frames) - 1)


def in_pieces(video: Tensor, frames: int = 8) -> Iterator[Tensor]:
    """A decoded clip (1, 3, n, height, width) in pieces of `frames`, so that its uint8 copy is never whole."""
    yield from torch.split(video, frames, dim=2)
