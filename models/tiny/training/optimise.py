"""Muon for matrices and kernels, AdamW for the rest, an average of the weights, and a schedule by wall clock.

Muon: momentum whose update is made orthogonal by a few Newton-Schulz steps (Jordan et al., 2024). Scaling the update
by 0.2 sqrt(max(rows, columns)) gives it AdamW's usual size, so one learning rate serves both (Liu et al., 2025,
"Muon is scalable for LLM training", section 2.2). Torch has its own Muon for matrices; this one takes kernels too.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.tiny.training import precision, together

# Coefficients of the quintic Newton-Schulz iteration of Jordan et al.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of a stack of matrices (..., rows, columns) near one."""
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(precision.matrices())
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for parameters of two or more dimensions (kernels are flattened to matrices)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures here
        """Move every parameter that has a gradient; those of one shape are orthogonalised together."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[nn.Parameter]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    alike.setdefault((param.shape[0], param[0].numel()), []).append(param)
            for shape, params in alike.items():
                ahead = torch.stack([self._ahead(param, group["momentum"]).reshape(shape) for param in params])
                updates = together.share(orthogonal, ahead)
                for param, update in zip(params, updates * (0.2 * math.sqrt(max(shape))), strict=True):
                    param.mul_(1 - group["lr"] * group["decay"])
                    param.add_(update.reshape(param.shape).to(param.dtype), alpha=-group["lr"])

    def _ahead(self, param: nn.Parameter, momentum: float) -> Tensor:
        """The gradient with Nesterov's momentum."""
        state = self.state[param]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(param)
        state["momentum"].mul_(momentum).add_(param.grad)
        ahead: Tensor = param.grad + momentum * state["momentum"]
        return ahead


class Optimizers:
    """Muon and AdamW under one handle, with one shared learning-rate scale."""

    def __init__(self, muon: list[nn.Parameter], adamw: list[nn.Parameter], muon_lr: float, adamw_lr: float) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        if muon:
            self.parts.append(Muon(muon, lr=muon_lr, decay=0.01))
        self.parts.append(torch.optim.AdamW(adamw, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0))
        self.peaks = [part.param_groups[0]["lr"] for part in self.parts]

    def step(self, scale: float) -> None:
        """One step at `scale` times the peak rates; clears the gradients."""
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """State of both, for a checkpoint."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take up the state of a checkpoint."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Average:
    """An exponential moving average of a model's weights that starts quickly."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.count = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards `model`."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


def plateau(done: float, step: int, warmup_steps: int = 60, last: float = 0.25, floor: float = 0.03) -> float:
    """Scale of the learning rate: a linear start, all of it, then a straight fall over the `last` part of the time.

    Unlike a cosine it can be gone on from: more time given means that the fall comes later.
    """
    fall = min(1.0, max(0.0, (1 - done) / last))
    return min(1.0, (step + 1) / warmup_steps) * (floor + (1 - floor) * fall)
