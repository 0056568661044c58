"""Processes that train together share their gradients, their work and their weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from models.tiny.training import together


def _process(rank: int, count: int, meeting: str, folder: str) -> None:
    torch.set_num_threads(1)
    together.join(rank, count, meeting)
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, float(rank))
    layer(torch.tensor([[1.0, 2.0]]) * (rank + 1)).sum().backward()
    means = together.average(layer, [float(rank)])
    halved = together.share(lambda stack: stack / 2, torch.arange(5.0)[:, None])
    together.align(layer)
    torch.save([layer.weight.grad, means, halved, layer.weight.data], Path(folder) / f"{rank}.pt")


def test_processes_share_gradients_work_and_weights(tmp_path: Path) -> None:
    mp.spawn(_process, args=(2, str(tmp_path / "meeting"), str(tmp_path)), nprocs=2)
    for rank in range(2):
        grad, means, halved, weight = torch.load(tmp_path / f"{rank}.pt")
        assert grad.tolist() == [[1.5, 3.0]]
        assert means == [0.5]
        assert halved.flatten().tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert weight.tolist() == [[0.0, 0.0]]


def test_one_process_alone_needs_no_others() -> None:
    def double(stack: Tensor) -> Tensor:
        return stack * 2

    assert together.share(double, torch.ones(3, 1)).tolist() == [[2.0]] * 3
    assert together.average(nn.Linear(1, 1), [4.0]) == [4.0]
