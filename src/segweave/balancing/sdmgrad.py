"""SDMGrad (Xiao, Ban & Ji 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import RowBalancer
from segweave.balancing.simplex import keep, project, shares
from segweave.errors import ConfigError


class SDMGrad(RowBalancer):
    """The shortest mixture of the task gradients, drawn to their mean, by steps with the gradients of two batches.

    `w <- P(w - lr v)`, where `v` is the momentum of `A (w + strength / n)`, `P` the projection on the simplex, and `A`
    is `J1 J2'` divided by the square of the mean of `sqrt((J1 J2')_ii)`, negative ones taken as 0; then the weights
    are `(w + strength / n) / (1 + strength)`. They sum to 1, and are the same at every common scale of the losses.

    Published is that both batches are drawn at the same parameters, and a third for the update, at three times the
    cost of a step. Here `J2` is of this batch and `J1` of the step before, so that `A` is without bias up to the size
    of a step of the parameters and of the weights, which have seen that batch. In the first step of a task `J1` is
    `J2`. Published is also `lr: 10`. The steps settle below `2 (1 + momentum)` over the largest eigenvalue of `A`,
    which is from 1 to `n^2` for one batch; at 10 they go from corner to corner of the simplex, and where they stop
    says little about the gradients.

    Args:
        tasks, seed: of `Balancer`.
        strength: lambda of the paper, of the pull to the mean gradient.
        lr, momentum, iterations: of the inner steps.
        options: of `Comparing`.
    """

    paper = "Xiao, Ban & Ji 2023, Direction-oriented Multi-objective Learning, arXiv 2305.18409"
    cost = "a backward pass per task, and a copy of the shared parameters per task"

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        strength: float = 0.3,
        lr: float = 0.1,
        momentum: float = 0.5,
        iterations: int = 20,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if strength < 0:
            raise ConfigError(f"balancing.strength: found {strength}; expected a number of at least 0")
        if lr <= 0:
            raise ConfigError(f"balancing.lr: found {lr}; expected a number above 0")
        if not 0 <= momentum < 1:
            raise ConfigError(f"balancing.momentum: found {momentum}; expected a number from 0 to below 1")
        if iterations < 1:
            raise ConfigError(f"balancing.iterations: found {iterations}; expected a whole number of at least 1")
        self.strength, self.lr, self.momentum, self.iterations = strength, lr, momentum, iterations

    def weigh(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],
        losses: Float[Tensor, " n"],  # noqa: ARG002
        last: bool,
    ) -> Float[Tensor, " n"]:
        before = torch.stack([self.memory.get(f"before/{task}", row) for task, row in zip(tasks, rows, strict=True)])
        crossed = before @ rows.T
        size = crossed.diagonal().clamp(min=0).sqrt().mean().square()
        crossed = torch.where(size > 0, crossed / size, 0.0)
        wanted = self.strength / len(tasks)
        weights, together = shares(self.memory, tasks, rows)
        velocity = torch.zeros_like(weights)
        for _ in range(self.iterations):
            velocity = self.momentum * velocity + crossed @ (weights + wanted)
            weights = project(weights - self.lr * velocity)
        if last:
            keep(self.memory, tasks, weights, together)
            self.memory.write(tasks, rows, "before")
        return (weights + wanted) / (1 + self.strength)
