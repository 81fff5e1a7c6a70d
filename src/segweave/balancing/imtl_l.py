"""The loss balance of impartial multi-task learning, IMTL-L (Liu et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.balancing.balancer import LossBalancer


class IMTLL(LossBalancer):
    """`sum_i (exp(s_i) L_i - s_i)` with a learned `s_i` per task, which starts at 0.

    At rest `exp(s_i) L_i = 1`: all scaled losses are alike. It is twice uncertainty weighting with the sign of its
    parameter turned. The sum is linear in the losses, and `s_i` enters with the last micro-batch only, so that
    accumulation is exact. A task without a label in the effective batch keeps its `s_i`, and its gradient None.

    Args:
        tasks, seed, monitor: of `LossBalancer`; a number is learned for each of these tasks.
    """

    cost = "none; one number per task is learned"
    paper = "Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021"

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, monitor: bool = False) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        self.log_scale = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def combine(
        self,
        losses: Float[Tensor, " n"],
        tasks: Sequence[str],
        last: bool,
        whole: Float[Tensor, " n"],  # noqa: ARG002
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        if not tasks:
            return losses.sum(), losses
        log_scale = torch.stack([self.log_scale[task] for task in tasks])
        weights = log_scale.exp()
        return (weights * losses).sum() - (log_scale.sum() if last else 0.0), weights
