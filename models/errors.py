"""Errors of loading and running a model; those of torch, diffusers and the hub are translated and kept as the cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from config.errors import Fault, T2MError


class ModelError(T2MError):
    """Base of this package's errors."""


class WeightsMissing(ModelError):
    """The weights of a catalogue row, or one file of them, are not on this machine."""


class WeightsCorrupt(ModelError):
    """A file of the weights has another size or sha256 than its lock says, or cannot be read."""


class WeightsUnavailable(ModelError):
    """The hub, the store that holds pulled weights, or the system could not deliver them."""

    fault: ClassVar[Fault] = Fault.TRANSIENT


class UnsupportedShape(ModelError):
    """The model cannot draw this size or this many frames."""


class DeviceUnavailable(ModelError):
    """The device that the settings name is not on this machine."""

    fault: ClassVar[Fault] = Fault.RESOURCE


class OutOfMemory(ModelError):
    """The device ran out of memory while drawing; the model itself stays usable."""

    fault: ClassVar[Fault] = Fault.RESOURCE


class GpuFailed(ModelError):
    """A call to the GPU failed; the process that made it can often use the GPU no more."""

    fault: ClassVar[Fault] = Fault.RESOURCE

    def __init__(self, doing: str) -> None:
        super().__init__(
            f"The GPU failed while {doing}.",
            remedy="See the worker's log and the GPU driver's; restart the worker if it goes on.",
        )


class NotFinite(ModelError):
    """The network drew infinities or NaNs, of which a decoder would make black pictures."""


class SnapshotRefused(ModelError):
    """A snapshot is of another release, model, shape or seed, or is none; the clip has to start over."""


@contextmanager
def translated(model: str, vram_gib: float) -> Iterator[None]:
    """Turn what torch raises for the GPU while `model` draws into errors of this module.

    Raises:
        OutOfMemory: the device had too little memory.
        GpuFailed: it failed otherwise.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(
            f"The GPU ran out of memory while {model} was drawing.",
            remedy=f"{model} needs about {vram_gib:g} GiB; stop other users of this GPU or take a larger one.",
        ) from error
    except torch.AcceleratorError as error:
        raise GpuFailed(f"{model} was drawing") from error
