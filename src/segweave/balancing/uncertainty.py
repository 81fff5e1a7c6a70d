"""Uncertainty weighting (Kendall, Gal & Cipolla 2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.balancing.balancer import LossBalancer


class Uncertainty(LossBalancer):
    """`sum_i (exp(-s_i) L_i + s_i) / 2` with a learned log-variance `s_i = ln sigma_i^2` per task, which starts at 0.

    This is equation 7 of the paper for any number of losses, with the same factor 1/2 for all kinds of task. The paper
    has no such factor for a classification (equation 10), which is the same with that loss doubled: its weight starts
    at 1 instead of 1/2, and is `1 / (2 L_i)` at rest either way. The sum is linear in the losses, and `s_i / 2` enters
    with the last micro-batch only, so that accumulation over micro-batches is exact. A task without a label in the
    effective batch keeps its `s_i`, and its gradient None.

    Args:
        tasks: every task of the network; state is kept by these names.
    """

    cost = "none; one number per task is learned"
    paper = "Kendall, Gal & Cipolla 2018, arXiv 1705.07115, section 3.2"

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, monitor: bool = False) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def combine(
        self,
        losses: Float[Tensor, " n"],
        tasks: Sequence[str],
        last: bool,
        whole: Float[Tensor, " n"],  # noqa: ARG002
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        if not tasks:
            return losses.sum(), losses
        log_variance = torch.stack([self.log_variance[task] for task in tasks])
        weights = torch.exp(-log_variance) / 2
        penalty = log_variance.sum() / 2 if last else 0.0
        return (weights * losses).sum() + penalty, weights
