"""The denoising state is all that the rest of a run depends on."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from models.denoise import DenoisingState, Loop, denoise
from models.seeds import window_generator

UNIPC = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
EULER = FlowMatchEulerDiscreteScheduler(shift=3.0)


def predict(latents: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(latents) * (1 + t / 1000)


class Stop(Exception):
    """Raised by a listener."""


@pytest.mark.parametrize("scheduler", [UNIPC, EULER], ids=["unipc", "euler"])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_state_saved_at_any_step_goes_on_bit_identically(scheduler: object, step: int) -> None:
    noise = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    whole = DenoisingState.start(scheduler, 8, noise.clone())
    denoise(whole, predict, lambda loop: None)

    part = DenoisingState.start(scheduler, 8, noise.clone())
    with pytest.raises(Stop):
        denoise(part, predict, lambda loop: _stop_at(step, loop))
    resumed = DenoisingState.restore(scheduler, 8, copy.deepcopy(part.save()))
    assert resumed.step == step
    denoise(resumed, predict, lambda loop: None)
    assert torch.equal(resumed.latents, whole.latents)


def _stop_at(step: int, loop: Loop) -> None:
    if loop.step == step:
        raise Stop


def test_every_step_is_told() -> None:
    told: list[int] = []
    denoise(DenoisingState.start(UNIPC, 5, torch.zeros(1, 1, 1, 2, 2)), predict, lambda loop: told.append(loop.step))
    assert told == [1, 2, 3, 4, 5]


def test_windows_differ_and_the_first_is_the_seed_itself() -> None:
    first, second, third = (torch.randn(8, generator=window_generator(5, window)) for window in range(3))
    assert torch.equal(first, torch.randn(8, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
