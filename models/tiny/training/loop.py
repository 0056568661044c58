"""How either part is trained: by wall clock, resumable, in several processes that average their gradients."""

import math
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from models.tiny.training import state, together
from models.tiny.training.optimise import Average, Optimizers, plateau

SAVE_EVERY_S = 150
LONGEST_GRADIENT = 1.0

M = TypeVar("M", bound=nn.Module)


class Training(ABC, Generic[M]):
    """State of one training, its steps and its checkpoints; process `rank` of those that joined.

    The schedule runs by wall clock, since the cores are shared: `spent_s` is the time spent over all starts, `done` its
    part (0..1) of what is given.

    Args:
        path: of the checkpoint; where there is one, the training goes on from it.
        decay: of the average of the weights.
    """

    report_every: int

    def __init__(self, model: M, optimizers: Optimizers, decay: float, path: Path, rank: int) -> None:
        self.model, self.optimizers, self.path, self.rank = model, optimizers, path, rank
        self.average = Average(model, decay)
        self.step, self.spent_s, self.done = 0, 0.0, 0.0
        if saved := state.load(path):
            model.load_state_dict(saved["model"])
            self.average.model.load_state_dict(saved["average"])
            if "optimizers" in saved:
                optimizers.load_state_dict(saved["optimizers"])
            self.step, self.spent_s, self.average.count = saved["step"], saved["spent_s"], saved["step"]
        self.log = state.Log(path.with_suffix(".csv"))

    @abstractmethod
    def loss(self) -> tuple[Tensor, float]:
        """The loss of this step's batch, and the figure that is reported."""

    @abstractmethod
    def report(self, figure: float, norm: float) -> None:
        """Log the mean figure of the last steps, and the norm of the last gradient."""

    def align(self) -> None:
        """Do what all processes do before a report."""
        together.align(self.model)

    def save(self) -> None:
        """Write the checkpoint."""
        content = {"model": self.model.state_dict(), "average": self.average.model.state_dict()}
        counts = {"optimizers": self.optimizers.state_dict(), "step": self.step, "spent_s": self.spent_s}
        state.save(self.path, content | counts)

    def train(self, minutes: float) -> None:
        """Train for `minutes` of wall clock in all.

        A SIGTERM to any process ends the training after the step it is in, with its checkpoint written.
        """
        last, kept_at, figures = time.monotonic(), self.spent_s, list[float]()
        self.done = self.spent_s / (minutes * 60)
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
        while self.spent_s < minutes * 60:
            loss, figure = self.loss()
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            now = time.monotonic()
            spent_s, last = self.spent_s + now - last, now
            figure, self.spent_s, stops = together.average(self.model, [figure, spent_s, float(len(stopped))])
            norm = self._update()
            self.done = self.spent_s / (minutes * 60)
            figures.append(figure)
            if self.step % self.report_every == 0:
                self.align()
                if self.rank == 0:
                    self.report(float(np.mean(figures)), norm)
                figures = []
            if stops > 0:
                break
            if self.rank == 0 and self.spent_s - kept_at > SAVE_EVERY_S:
                self.save()
                kept_at = self.spent_s
        if self.rank == 0:
            self.save()

    def _update(self) -> float:
        """Step along the gradients; returns their norm."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), LONGEST_GRADIENT))
        if math.isfinite(norm):
            self.optimizers.step(plateau(self.done, self.step))
            self.average.update(self.model)
        else:
            self.model.zero_grad(set_to_none=True)
        self.step += 1
        return norm
