"""What loading a diffusers pipeline has in common for all families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from config.catalogue import ModelEntry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SHIFT_KEYS = ("flow_shift", "shift")
"""What UniPC, and FlowMatchEuler, call the shift of a flow schedule in their configurations."""


def open_pipeline(
    pipeline_class: Any,  # noqa: ANN401 - diffusers has no types
    entry: ModelEntry,
    folder: Path,
    device: str,
    **dtypes: torch.dtype,
) -> Any:  # noqa: ANN401
    """Load a pipeline from a local folder, from safetensors only, in the row's dtype and with its flow shift.

    Args:
        dtypes: other dtypes of single components. Given while loading: a later `.to(dtype)` would also cast the
            parts a model keeps in float32.

    Raises:
        OSError, ValueError: the folder is no such pipeline, or a component has no safetensors.
    """
    pipeline = pipeline_class.from_pretrained(
        folder,
        dtype={"default": DTYPES[entry.dtype], **dtypes},
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = _shifted(pipeline.scheduler, entry.flow_shift)
    return pipeline.to(device)


def _shifted(scheduler: Any, shift: float | None) -> Any:  # noqa: ANN401
    """`scheduler` with another flow shift, where the row names one and the scheduler has one."""
    keys = [key for key in SHIFT_KEYS if key in scheduler.config]
    if shift is None or not keys:
        return scheduler
    return type(scheduler).from_config(scheduler.config, **{keys[0]: shift})
