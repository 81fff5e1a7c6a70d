"""Group optimization for multi-task alignment, GO4Align (Shen et al. 2024, arXiv 2404.06486)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer
from segweave.errors import ConfigError

_SMALL = 1e-8


class GO4Align(LossBalancer):
    """Tasks in groups by how they learn; all tasks of a group get the group's mean weight.

    The indicator of a task is `p_i sum_j L_j / L_i`: its scale times a share p that follows
    `p_i <- p_i exp(-step L_i)`, normalised, from 1 / n. This is the program of the authors, but for the groups: here
    they are the exact one-dimensional k-means of the indicators, by dynamic programming, and theirs are what k-means
    finds from random starts. A task without a label keeps its p.

    Args:
        tasks, seed, monitor: of `LossBalancer`.
        groups: 1 or more; where there are no more tasks than this, each is its own.
        step: 0 or more; 1e-4 in the authors' code.

    Raises:
        ConfigError: values out of range.
    """

    cost = "none; with several micro-batches a forward pass more"
    paper = "Shen et al., GO4Align: Group Optimization for Multi-Task Alignment, NeurIPS 2024, arXiv 2404.06486"
    ahead = True

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        groups: int = 2,
        step: float = 1e-4,
        monitor: bool = False,
    ) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        if groups < 1:
            raise ConfigError(f"balancing.groups: found {groups}; expected 1 or more")
        if not step >= 0:
            raise ConfigError(f"balancing.step: found {step}; expected a number, 0 or more")
        self.groups, self.step = groups, step

    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool, whole: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        if not tasks:
            return losses.sum(), losses
        # the logarithm of p, up to a constant: normalising is then a softmax, over the tasks that are there
        logits = self.memory.stack(tasks, whole.new_zeros(()), "logit") - self.step * whole
        positive = whole.clamp(min=0) + _SMALL
        indicators = torch.softmax(logits, 0) * positive.sum() / positive
        weights = group_means(indicators, self.groups)
        if last:
            self.memory.write(tasks, logits, "logit")
        return (weights * losses).sum(), weights


def group_means(values: Float[Tensor, " n"], groups: int) -> Float[Tensor, " n"]:
    """Every number replaced by the mean of its group, the groups being those of least squared distance to their means.

    Groups of numbers on a line are neighbours, so that the best partition of the first j numbers into k groups ends
    in the best group for some best partition of fewer into k - 1. Nothing waits for the device.
    """
    n = len(values)
    if groups >= n:
        return values
    ordered, order = values.double().sort()
    sums, squares = (
        torch.cat([ordered.new_zeros(1), power.cumsum(0)])
        for power in (ordered - ordered.mean(), (ordered - ordered.mean()).square())
    )
    sizes = torch.arange(1, n + 1, device=values.device) - torch.arange(n, device=values.device)[:, None]
    spread = squares[None, 1:] - squares[:-1, None] - (sums[None, 1:] - sums[:-1, None]).square() / sizes.clamp(min=1)
    spread = spread.masked_fill(sizes < 1, torch.inf)  # [start, end], both included
    best, starts = spread[0], []
    for _ in range(groups - 1):
        before = torch.cat([best.new_full((1,), torch.inf), best[:-1]])
        best, start = (before[:, None] + spread).min(0)
        starts.append(start)
    places = torch.arange(n, device=values.device)
    label = torch.zeros_like(places)
    end = torch.full((1,), n - 1, device=values.device)
    for start in reversed(starts):
        first = start.gather(0, end)
        label = label + (places >= first)
        end = (first - 1).clamp(min=0)
    member = (label == places[:groups, None]).double()
    means = (member @ ordered) / member.sum(1).clamp(min=1)
    return torch.zeros_like(ordered).scatter(0, order, means[label]).to(values.dtype)
