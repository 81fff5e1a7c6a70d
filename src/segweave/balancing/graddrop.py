"""GradDrop (Chen et al. 2020, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import JacobianBalancer
from segweave.errors import ConfigError
from segweave.seeds import seed_for


class GradDrop(JacobianBalancer):
    """In every coordinate one sign is drawn, and the tasks whose gradient has the other are left out there.

    A positive sign has the probability `(1 + sum_i g_i / sum_i |g_i|) / 2`, the purity of the coordinate (equation 1);
    the drawn numbers are a function of (seed, step). In the mean over the draws the tasks of the majority gain. It adds
    noise to every step: not for small batches.

    Args:
        tasks, seed: of `Balancer`.
        leak: share of every gradient that is let through in any case, from 0 to 1; 1 is the plain sum.
        options: of `Comparing`; this method takes the features too, which is where the paper has it.
    """

    paper = "Chen et al. 2020, Just Pick a Sign, arXiv 2010.06808"
    cost = "a plain sum at the features, a backward pass per task at the parameters"
    refuses: ClassVar = {"last": JacobianBalancer.refuses["last"]}

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        leak: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if not 0 <= leak <= 1:
            raise ConfigError(f"balancing.leak: found {leak}; expected a number from 0 to 1")
        self.leak = leak

    def aggregate(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],  # noqa: ARG002
        losses: Float[Tensor, " n"],  # noqa: ARG002
        last: bool,  # noqa: ARG002
    ) -> Float[Tensor, " P"]:
        # the generator lives where the rows are: one number per parameter is too many to send there
        generator = torch.Generator(rows.device).manual_seed(seed_for(self.seed, 3, self.memory.step))
        drawn = torch.rand(rows.shape[1], generator=generator, device=rows.device, dtype=rows.dtype)
        return signed(rows, drawn, self.leak)


def signed(rows: Float[Tensor, "n P"], drawn: Float[Tensor, " P"], leak: float) -> Float[Tensor, " P"]:
    """The sum of what is kept of the rows, for numbers drawn from [0, 1)."""
    if len(rows) == 1:
        return rows[0]
    sizes = rows.abs().sum(0)
    purity = torch.where(sizes > 0, (1 + rows.sum(0) / sizes) / 2, 0.5)
    kept = torch.where(purity > drawn, rows.clamp(min=0), rows.clamp(max=0))
    return (leak * rows + (1 - leak) * kept).sum(0)
