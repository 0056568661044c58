"""What the GPU of this machine is doing, from NVIDIA's management library."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import pynvml
import structlog

from pipeline import metrics

log = structlog.get_logger(__name__)


@cache
def _handle() -> object:
    """The first GPU this process may see; None without one."""
    first = _first()
    try:
        pynvml.nvmlInit()
        if first.isdecimal():
            return pynvml.nvmlDeviceGetHandleByIndex(int(first))
        return pynvml.nvmlDeviceGetHandleByUUID(first)
    except pynvml.NVMLError:  # no driver, which is the normal case on a CPU worker
        return None


def _first() -> str:
    """Number or UUID of it: workers of one machine are given a GPU each by this variable, which NVML does not heed."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()


def gpu_state() -> dict[str, Any] | None:
    """Name, memory_used_bytes, memory_total_bytes and utilisation (0 to 1) of the first GPU; None without one."""
    handle = _handle()
    if handle is None:
        return None
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        load = pynvml.nvmlDeviceGetUtilizationRates(handle)
        name = pynvml.nvmlDeviceGetName(handle)
    except pynvml.NVMLError as error:
        log.warning("GPU state not read", error=str(error))
        return None
    metrics.GPU_MEMORY_BYTES.labels(_first()).set(memory.used)
    return {
        "name": name,
        "memory_used_bytes": memory.used,
        "memory_total_bytes": memory.total,
        "utilisation": load.gpu / 100,
    }
