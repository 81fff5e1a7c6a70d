"""MoDo (Chen et al. 2023, equation 2.9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import RowBalancer
from segweave.balancing.simplex import keep, project, shares
from segweave.errors import ConfigError


class MoDo(RowBalancer):
    """Task weights by one step at a time, with the gradients of two batches so that the step is without bias.

    `w <- P(w - gamma (J1 J2' w + rho w))`, `P` the projection on the simplex; the update is `sum_i w_i g_i` with the
    gradients of this batch. `J2` is of this batch too, and `J1` of the step before: the paper draws both at the same
    parameters, which would double the cost of a step. In the first step of a task `J1` is `J2`. `gamma` is in units of
    1 over a squared gradient length.

    Args:
        tasks, seed: of `Balancer`.
        gamma: step size of the task weights.
        rho: pull of the weights to equal ones.
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
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if gamma <= 0:
            raise ConfigError(f"balancing.gamma: found {gamma}; expected a number above 0")
        if rho < 0:
            raise ConfigError(f"balancing.rho: found {rho}; expected a number of at least 0")
        self.gamma, self.rho = gamma, rho

    def weigh(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],
        losses: Float[Tensor, " n"],  # noqa: ARG002
        last: bool,
    ) -> Float[Tensor, " n"]:
        before = torch.stack([self.memory.get(f"before/{task}", row) for task, row in zip(tasks, rows, strict=True)])
        weights, together = shares(self.memory, tasks, rows)
        slope = before @ (weights @ rows) + self.rho * weights
        weights = project(weights - self.gamma * slope)
        if last:
            keep(self.memory, tasks, weights, together)
            self.memory.write(tasks, rows, "before")
        return weights
