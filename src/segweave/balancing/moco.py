"""MoCo (Fernando et al. 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import RowBalancer
from segweave.balancing.simplex import keep, length, project, shares
from segweave.errors import ConfigError


class MoCo(RowBalancer):
    """Running means of the task gradients, weighed by one step at a time towards their shortest mixture.

    `y_i <- y_i - beta_t (y_i - g_i)`, then `w <- P(w - gamma_t (Y Y' w / s^2 + rho w))` with `P` the projection on the
    simplex, and the update is `sum_i w_i y_i`; `beta_t = beta / t^decay`, and so `gamma_t`. The weights sum to 1. The
    means start at the first gradient of each task. A task alone in a step gets its plain gradient.

    Published is `s = 1` (`normalize: false`): `gamma` is then in units of 1 over a squared gradient length, and has to
    be searched for every network, because with long gradients `w` jumps from task to task. By default `s` is the mean
    length of the `y_i`: the weights are then the same at every common scale of the losses, and `rho` has the same
    strength beside the gradients. Its default is that of the authors' later code, with MoDo; LibMTL's is 0, with which
    the weights go to the shortest mixture, in the end almost all on the task of the shortest gradient. The authors'
    code for Cityscapes, and LibMTL, average `L_i g_i / |g_i|` and put a softmax in the place of `P`; the paper has
    neither, and nor has this.

    Args:
        tasks, seed: of `Balancer`.
        beta: in (0, 1], weight of the new gradient.
        gamma: step size of the task weights.
        rho: pull of the weights to equal ones.
        decay: at least 0, of both step sizes over the steps `t = 1, 2, ...`.
        normalize: measure gradients by their mean length when the weights take their step.
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
        rho: float = 0.1,
        decay: float = 0.5,
        normalize: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if not 0 < beta <= 1:
            raise ConfigError(f"balancing.beta: found {beta}; expected a number above 0, at most 1")
        for name, value in (("gamma", gamma), ("rho", rho), ("decay", decay)):
            if value < 0:
                raise ConfigError(f"balancing.{name}: found {value}; expected a number of at least 0")
        self.beta, self.gamma, self.rho, self.decay, self.normalize = beta, gamma, rho, decay, normalize

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
        size = length(rows) if self.normalize else 1.0
        slope = rows @ (weights / size @ rows) / size + self.rho * weights
        weights = project(weights - self._faded(self.gamma) * slope)
        if last:
            keep(self.memory, tasks, weights, together)
        return weights

    def _faded(self, size: float) -> float:
        return size / (self.memory.step + 1) ** self.decay
