"""MoDo (Chen et al. 2023, equation 2.9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import RowBalancer
from segweave.balancing.simplex import keep, length, project, shares
from segweave.errors import ConfigError


class MoDo(RowBalancer):
    """Task weights by one step at a time towards the shortest mixture, with the gradients of two batches.

    `w <- P(w - gamma (J1 J2' w / s + rho w))`, `P` the projection on the simplex; the update is `sum_i w_i g_i` with
    the gradients of this batch. The weights sum to 1. Noise that two batches do not share has mean 0 in `J1 J2'`; in
    the Gramian of one batch it is added to the diagonal.

    Published is that both batches are drawn at the same parameters, and a third for the update, at three times the
    cost of a step. Here `J2` is of this batch and `J1` of the step before, so that what the paper proves of an unbiased
    step holds up to the size of a step of the parameters and of the weights, which have seen that batch. In the first
    step of a task `J1` is `J2`. Published is also `s = 1` (`normalize: false`): `gamma` is then in units of 1 over a
    squared gradient length, and has to be searched for every network. By default `s` is the mean length in `J1` times
    that in `J2`, which makes the weights the same at every common scale of the losses.

    Args:
        tasks, seed: of `Balancer`.
        gamma: step size of the task weights.
        rho: pull of the weights to equal ones.
        normalize: measure gradients by their mean length when the weights take their step.
        options: of `Comparing`.
    """

    paper = "Chen et al. 2023, Three-Way Trade-Off in Multi-Objective Learning, arXiv 2305.20057"
    cost = "a backward pass per task, and a copy of the shared parameters per task"

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        gamma: float = 0.1,
        rho: float = 0.1,
        normalize: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if gamma <= 0:
            raise ConfigError(f"balancing.gamma: found {gamma}; expected a number above 0")
        if rho < 0:
            raise ConfigError(f"balancing.rho: found {rho}; expected a number of at least 0")
        self.gamma, self.rho, self.normalize = gamma, rho, normalize

    def weigh(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],
        losses: Float[Tensor, " n"],  # noqa: ARG002
        last: bool,
    ) -> Float[Tensor, " n"]:
        before = torch.stack([self.memory.get(f"before/{task}", row) for task, row in zip(tasks, rows, strict=True)])
        weights, together = shares(self.memory, tasks, rows)
        sizes = (length(before), length(rows)) if self.normalize else (1.0, 1.0)
        slope = before @ (weights / sizes[1] @ rows) / sizes[0] + self.rho * weights
        weights = project(weights - self.gamma * slope)
        if last:
            keep(self.memory, tasks, weights, together)
            self.memory.write(tasks, rows, "before")
        return weights
