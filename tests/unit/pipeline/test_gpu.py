"""Which GPU is told of. NVML itself is not here."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from pipeline import gpu


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What NVML is asked for."""
    asked: list[object] = []
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: asked.append(index) or "handle",
        "nvmlDeviceGetHandleByUUID": lambda uuid: asked.append(uuid) or "handle",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=1, total=4),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=50),
        "nvmlDeviceGetName": lambda _: "A GPU",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.setattr(gpu, "_handle", gpu._handle.__wrapped__)
    return asked


@pytest.mark.parametrize(
    ("visible", "first"), [(None, 0), ("1", 1), ("3,1", 3), ("GPU-8932f937", "GPU-8932f937"), ("", "")]
)
def test_a_worker_tells_of_the_gpu_it_was_given(
    asked: list[object], monkeypatch: pytest.MonkeyPatch, visible: str | None, first: object
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    state = gpu.gpu_state()
    assert asked == [first]
    assert state is not None and state["utilisation"] == 0.5
