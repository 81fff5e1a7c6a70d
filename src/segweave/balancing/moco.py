"""MoCo (Fernando et al. 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import RowBalancer
from segweave.balancing.simplex import keep, project, shares
from segweave.errors import ConfigError


class MoCo(RowBalancer):
    """Running means of the task gradients, weighed by one step at a time towards their shortest mixture.

    `y_i <- y_i - beta_t (y_i - g_i)`, then `w <- P(w - gamma_t (Y Y' w + rho w))` with `P` the projection on the
    simplex, and the update is `sum_i w_i y_i`; `beta_t = beta / t^decay`, and so `gamma_t`. The means start at the
    first gradient of each task. `gamma` is in units of 1 over a squared gradient length: with long gradients a large
    one makes `w` jump from task to task. A task alone in a step gets its plain gradient.

    Args:
        tasks, seed: of `Balancer`.
        beta: in (0, 1], weight of the new gradient.
        gamma: step size of the task weights.
        rho: pull of the weights to equal ones.
        decay: at least 0, of both step sizes over the steps `t = 1, 2, ...`.
        options: of `Comparing`.
    """

    paper = "Fernando et al. 2023, Mitigating Gradient Bias in Multi-objective Learning, ICLR 2023"
    cost = "a backward pass per task, and a copy of the shared parameters per task"

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        beta: float = 0.5,
        gamma: float = 0.1,
        rho: float = 0.0,
        decay: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if not 0 < beta <= 1:
            raise ConfigError(f"balancing.beta: found {beta}; expected a number above 0, at most 1")
        for name, value in (("gamma", gamma), ("rho", rho), ("decay", decay)):
            if value < 0:
                raise ConfigError(f"balancing.{name}: found {value}; expected a number of at least 0")
        self.beta, self.gamma, self.rho, self.decay = beta, gamma, rho, decay

    def track(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],
        losses: Float[Tensor, " n"],  # noqa: ARG002
        last: bool,
    ) -> Float[Tensor, "n P"]:
        held = torch.stack([self.memory.get(f"mean/{task}", row) for task, row in zip(tasks, rows, strict=True)])
        means = held + self._faded(self.beta) * (rows - held)
        if last:
            self.memory.write(tasks, means, "mean")
        return rows if len(tasks) == 1 else means

    def weigh(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],
        losses: Float[Tensor, " n"],  # noqa: ARG002
        last: bool,
    ) -> Float[Tensor, " n"]:
        weights, together = shares(self.memory, tasks, rows)
        slope = rows @ (weights @ rows) + self.rho * weights
        weights = project(weights - self._faded(self.gamma) * slope)
        if last:
            keep(self.memory, tasks, weights, together)
        return weights

    def _faded(self, size: float) -> float:
        return size / (self.memory.step + 1) ** self.decay
