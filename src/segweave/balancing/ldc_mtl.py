"""Loss discrepancy control, LDC-MTL (Xiao et al. 2025, arXiv 2502.08585)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.balancing.balancer import LossBalancer
from segweave.errors import ConfigError

_SMALL = 1e-8


class LDCMTL(LossBalancer):
    """Learned weights that keep the weighted losses alike: `sum_i s_i l_i + lambda sum_i |s_i l_i - s_(i+1) l_(i+1)|`.

    `s = softmax(w)` and `l_i = L_i / tau_i`, where tau is the first loss of a task over the smallest first loss. w and
    the network descend on it together, in one loop. This is the authors' program for NYUv2, except that w is one number
    per task, from 0. There it comes out of a linear layer on the pooled features, and s is clamped to [0.2, 0.8]; their
    programs for CelebA and QM9 learn one number per task as well, with a sigmoid in the place of the softmax, and
    compare the losses as they are and their logarithms.

    Neighbours are those in the order of their names, so that results do not depend on the order of the tasks. A task
    without a label keeps its w, and its gradient None; the softmax is over those that are there.

    Args:
        tasks, seed, monitor: of `LossBalancer`; a number is learned for each of these tasks.
        discrepancy: lambda, 0 or more; in the authors' programs 0.05 for NYUv2 and QM9, 0.1 for Cityscapes, 0.01 for
            CelebA.

    Raises:
        ConfigError: a lambda below 0.
    """

    cost = "none; one number per task is learned; with several micro-batches a forward pass more"
    paper = "Xiao et al., LDC-MTL: Balancing Multi-Task Learning through Scalable Loss Discrepancy Control, 2025"
    ahead = True

    def __init__(
        self, tasks: Sequence[str], seed: int = 0, *, discrepancy: float = 0.05, monitor: bool = False
    ) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        if not discrepancy >= 0:
            raise ConfigError(f"balancing.discrepancy: found {discrepancy}; expected a number, 0 or more")
        self.discrepancy = discrepancy
        self.logits = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool, whole: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        if not tasks:
            return losses.sum(), losses
        first = torch.stack(
            [self.memory.get(f"first/{task}", loss) for task, loss in zip(tasks, whole, strict=True)]
        ).clamp(min=_SMALL)
        if last:
            new = [place for place, task in enumerate(tasks) if f"first/{task}" not in self.memory]
            self.memory.write([tasks[place] for place in new], whole[new], "first")
        scale = first.min() / first
        share = torch.softmax(torch.stack([self.logits[task] for task in tasks]), 0)
        # |a - b| is linear in both once its sign is known, from the whole batch: micro-batches then add up
        order = sorted(range(len(tasks)), key=lambda place: tasks[place])
        level = (share.detach() * scale * whole)[order]
        sign = torch.sign(level[:-1] - level[1:])
        pull = torch.zeros_like(level)
        pull[:-1] += sign
        pull[1:] -= sign
        factor = torch.empty_like(pull)
        factor[order] = 1 + self.discrepancy * pull
        weights = share * scale * factor
        return (weights * losses).sum(), weights
