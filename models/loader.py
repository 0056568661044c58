"""Loads a catalogue row's weights, once per process, from a local folder, offline and only from safetensors."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import threading
from pathlib import Path

from config.catalogue import Family, ModelEntry
from config.settings import ModelSettings
from models import weights
from models.contract import VideoModel
from models.errors import DeviceUnavailable, GpuFailed, OutOfMemory, WeightsCorrupt, WeightsUnavailable

ADAPTERS = {
    Family.WAN_TINY: "models.families.tiny",
    Family.WAN: "models.families.wan",
    Family.WAN_TI2V: "models.families.wan",
    Family.WAN_MOE: "models.families.wan",
    Family.LTX2: "models.families.ltx2",
    Family.HUNYUAN15: "models.families.hunyuan15",
    Family.COGVIDEOX: "models.families.cogvideox",
}
"""Module of each family's adapter; its `load(entry, folder, device)` gives a `Family`. Imported when first needed."""

UNREAD = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})
"""Numbers the system gives for reads that fail whatever a file holds."""

_loaded: dict[tuple[str, Path, str], VideoModel] = {}
_loading = threading.Lock()


def load(entry: ModelEntry, settings: ModelSettings) -> VideoModel:
    """The model of a catalogue row, loaded when first asked for and kept; on a GPU until another one is asked for.

    Raises:
        WeightsMissing: the weights were not pulled.
        WeightsCorrupt: a file differs from its lock, or is no valid pipeline.
        WeightsUnavailable: the system could not read a file.
        DeviceUnavailable: the settings ask for a GPU that is not there.
        OutOfMemory: the weights do not fit the device.
        GpuFailed: a call to the GPU failed.
    """
    device = _device(settings)
    key = (entry.name, weights.folder_of(entry, settings), device)
    with _loading:
        if key not in _loaded:
            folder = weights.locate(entry, settings)
            if device == "cuda":
                _make_room()
            _loaded[key] = _load(entry, folder, device)
        return _loaded[key]


def _make_room() -> None:
    """Give the GPU memory of all loaded models back: one GPU holds one of the large ones."""
    import torch

    _loaded.clear()
    gc.collect()
    torch.cuda.empty_cache()


def _load(entry: ModelEntry, folder: Path, device: str) -> VideoModel:
    import torch

    from models.model import LoadedModel

    _fix_numerics()
    _silence_bars()
    adapter = importlib.import_module(ADAPTERS[entry.family])
    try:
        return LoadedModel(entry, adapter.load(entry, folder, device), device)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{entry.name} does not fit the GPU.", remedy=f"It needs about {entry.vram_gib:g} GiB of GPU memory."
        ) from error
    except torch.AcceleratorError as error:
        raise GpuFailed(f"{entry.name} was being loaded") from error
    except _unreadable() as error:
        if isinstance(error, OSError) and error.errno in UNREAD:
            raise WeightsUnavailable(f"The weights of {entry.name} cannot be read: {error.strerror}.") from error
        raise WeightsCorrupt(
            f"The weights of {entry.name} in {folder} cannot be loaded: {str(error).splitlines()[0]}",
            remedy=f"Run `t2m models verify {entry.name}`.",
        ) from error


def _unreadable() -> tuple[type[Exception], ...]:
    """What diffusers, transformers and safetensors raise for folders that are no pipeline."""
    from safetensors import SafetensorError

    return (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError)


def _device(settings: ModelSettings) -> str:
    import torch

    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable(
            "The settings ask for a GPU, but torch finds none.",
            remedy='Set models.device to "auto" or "cpu", or install the GPU driver and a CUDA build of torch.',
        )
    return settings.device


def _fix_numerics() -> None:
    """Same seed, same frames: sums are split by thread, and cuDNN may otherwise pick kernels by timing.

    Half the cores each for the thread that denoises and the one that decodes: on a CPU they run side by side.
    """
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _silence_bars() -> None:
    """Keep the progress bars of diffusers and transformers off the worker's log."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
