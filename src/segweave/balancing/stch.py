"""Smooth Tchebycheff scalarization, STCH (Lin et al. 2024, arXiv 2402.19078), as its authors train networks with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer
from segweave.errors import ConfigError

_SMALL = 1e-8


class STCH(LossBalancer):
    """`n mu log sum_i exp(log(L_i / z_i) / mu)`: a smooth maximum of the losses relative to their level z_i.

    For `warmup_epochs` epochs and the next one the sum of the logarithms of the losses is minimised; in that last one
    their means are taken for z, and from then on the smooth maximum rules. A run that is shorter never leaves the
    warm-up. This is the authors' program, with its defaults; a loss of 0 counts as 1e-8 (there: 1e-20). The smaller mu,
    the more the worst task alone counts. A task that had no label in that epoch takes its first loss after it for z.

    Args:
        tasks, seed, monitor: of `LossBalancer`.
        mu: above 0.
        warmup_epochs: 0 or more.

    Raises:
        ConfigError: values out of range.
    """

    cost = "none; with several micro-batches a forward pass more"
    paper = "Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024, arXiv 2402.19078"
    ahead = True

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        mu: float = 1.0,
        warmup_epochs: int = 4,
        monitor: bool = False,
    ) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        if not mu > 0:
            raise ConfigError(f"balancing.mu: found {mu}; expected a number above 0")
        if warmup_epochs < 0:
            raise ConfigError(f"balancing.warmup_epochs: found {warmup_epochs}; expected 0 or more")
        self.mu, self.warmup_epochs = mu, warmup_epochs

    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool, whole: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        if not tasks:
            return losses.sum(), losses
        positive = whole.clamp(min=0) + _SMALL
        zero = whole.new_zeros(())
        if self.epoch > self.warmup_epochs:
            count = self.memory.stack(tasks, zero, "count")
            mean = self.memory.stack(tasks, zero, "sum") / count.clamp(min=1)
            level = torch.where(count > 0, mean, positive)
            weights = len(tasks) * torch.softmax((positive.log() - (level + _SMALL).log()) / self.mu, 0) / positive
        else:
            weights = 1 / positive
        measured = [place for place, task in enumerate(tasks) if self._measures(task)] if last else []
        names = [tasks[place] for place in measured]
        if measured:
            self.memory.write(names, self.memory.stack(names, zero, "sum") + whole[measured], "sum")
            self.memory.write(names, self.memory.stack(names, zero, "count") + 1, "count")
        return (weights * losses).sum(), weights

    def _measures(self, task: str) -> bool:
        late = self.epoch > self.warmup_epochs and f"count/{task}" not in self.memory
        return late or self.epoch == self.warmup_epochs
