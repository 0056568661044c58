"""Several processes that train one model, each on its own part of every batch and on a core of its own.

On cores that other work uses too this is faster than threads: threads wait for each other in every layer, processes
once a step.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join(rank: int, count: int, meeting: str) -> None:
    """Meet the other processes; `meeting` is a file that none of them has used before."""
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)


def average(model: nn.Module, values: list[float]) -> list[float]:
    """Replace every gradient, and each of `values`, by the mean over all processes."""
    if not dist.is_initialized():
        return values
    params = [param for param in model.parameters() if param.requires_grad]
    grads: list[Tensor] = [torch.zeros_like(param) if param.grad is None else param.grad for param in params]
    flat = torch.cat([*(grad.reshape(-1) for grad in grads), torch.tensor(values)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    sizes = [grad.numel() for grad in grads]
    for param, part in zip(params, flat[: sum(sizes)].split(sizes), strict=True):
        param.grad = part.view_as(param)
    means: list[float] = flat[sum(sizes) :].tolist()
    return means


@torch.no_grad()
def align(model: nn.Module) -> None:
    """Give every process the weights of the first, should rounding have drawn them apart."""
    if dist.is_initialized():
        for param in model.parameters():
            dist.broadcast(param, 0)


@torch.no_grad()
def share(work: Callable[[Tensor], Tensor], stack: Tensor) -> Tensor:
    """Apply `work`, which keeps shapes, along the first axis of a stack that all processes hold, each to its part."""
    if not dist.is_initialized():
        return work(stack)
    done = torch.zeros_like(stack)
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    if len(stack[mine]):
        done[mine] = work(stack[mine])
    dist.all_reduce(done)
    return done
