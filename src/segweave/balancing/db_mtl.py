"""DB-MTL (Lin et al. 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import RowBalancer
from segweave.errors import ConfigError

TINY = 1e-8


class DBMTL(RowBalancer):
    """Gradients of the logarithms of the losses, averaged over time and brought to one length, the longest.

    `m_i <- beta_t m_i + (1 - beta_t) g_i / (L_i + 1e-8)` from zero, with `beta_t = beta / t^decay`, and the update is
    `max_k |m_k| sum_i m_i / |m_i|`. The update does not depend on the scale of any loss, and its length grows with the
    number of tasks. Losses have to be above 0.

    Two things are not the authors' code, which is in LibMTL. The averages are divided by the sum of their weights,
    `1 - beta^t` without decay, as Adam does it: the direction is the same, and the first updates are not short. The
    heads keep the gradient of their own loss, not of its logarithm. A task alone in a step gets its plain gradient.

    Args:
        tasks, seed: of `Balancer`.
        beta: in [0, 1), of the averages; 0 is this step's gradient.
        decay: at least 0, of beta over the steps `t = 1, 2, ...`.
        options: of `Comparing`.
    """

    paper = "Lin et al. 2023, Dual-Balancing for Multi-Task Learning, arXiv 2308.12029"
    cost = (
        "a backward pass per task, and a copy of the shared parameters per task; at the last layer, with several "
        "micro-batches, a forward pass more"
    )

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        beta: float = 0.9,
        decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if not 0 <= beta < 1:
            raise ConfigError(f"balancing.beta: found {beta}; expected a number from 0 to below 1")
        if decay < 0:
            raise ConfigError(f"balancing.decay: found {decay}; expected a number of at least 0")
        self.beta, self.decay = beta, decay
        # the rows of a micro-batch there are divided by the losses of all of them
        self.ahead = self.space == "last"

    def track(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],
        losses: Float[Tensor, " n"],
        last: bool,
    ) -> Float[Tensor, "n P"]:
        scales = losses[:, None] + TINY
        beta = self.beta / (self.memory.step + 1) ** self.decay
        sums = beta * self.memory.stack(tasks, rows.new_zeros(rows.shape[1]), "sum") + (1 - beta) * (rows / scales)
        parts = beta * self.memory.stack(tasks, rows.new_zeros(1), "part") + (1 - beta)
        if last:
            self.memory.write(tasks, sums, "sum")
            self.memory.write(tasks, parts, "part")
        # back in units of the loss, so that a weight is one of the loss wherever it is used
        return rows if len(tasks) == 1 else sums / parts * scales

    def weigh(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],
        losses: Float[Tensor, " n"],
        last: bool,  # noqa: ARG002
    ) -> Float[Tensor, " n"]:
        if len(tasks) == 1:
            return rows.new_ones(1)
        # the squares of a long row would overflow
        longest = rows.abs().amax(1).clamp(min=torch.finfo(rows.dtype).tiny)
        scales = losses + TINY
        norms = longest * torch.linalg.vector_norm(rows / longest[:, None], dim=1) / scales
        return torch.where(norms > 0, norms.max() / norms / scales, 1.0)
