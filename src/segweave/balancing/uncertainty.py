"""Uncertainty weighting (Kendall, Gal & Cipolla 2018, equation 7, with one log-variance per task)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.balancing.balancer import LossBalancer


class Uncertainty(LossBalancer):
    """`sum_i (exp(-s_i) L_i + s_i) / 2` with a learned log-variance `s_i` per task, which starts at 0.

    The weights are linear in the losses, so accumulation over micro-batches is exact; `s_i / 2` enters once a step.
    A task without labels keeps its `s_i`.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        log_variance = torch.stack([self.log_variance[task] for task in tasks])
        weights = torch.exp(-log_variance) / 2
        penalty = log_variance.sum() / 2 if last else 0.0
        return (weights * losses).sum() + penalty, weights
