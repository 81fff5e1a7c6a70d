"""GradDrop (Chen et al. 2020, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import JacobianBalancer
from segweave.balancing.gradients import parted
from segweave.errors import ConfigError
from segweave.seeds import seed_for


class GradDrop(JacobianBalancer):
    """In every coordinate one sign is drawn, and the tasks whose gradient has the other are left out there.

    A positive sign has the probability `(1 + sum_i g_i / sum_i |g_i|) / 2`, the purity of the coordinate (equation 1);
    the drawn numbers are a function of (seed, step). In the mean over the draws the tasks of the majority gain. It adds
    noise to every step: not for small batches.

    The paper has it at the features `A` of a batch, and there one draw for all images: the purity is that of
    `sum_b sign(A_b) g_ib` over the images `b` of the micro-batch in this process, since the gradient of a weight that
    reads `A` goes by the products with `A`, and a task is left out of a feature in all images or in none. That is
    `pool: true`, LibMTL's only form. By default every value of every image is a coordinate of its own (lines 10 to 15
    of algorithm 1 alone, as in torchjd), which at the parameters is the same. The authors' code in lingvo moreover
    multiplies the result by its length over that of the plain sum, which the paper does not have.

    Args:
        tasks, seed: of `Balancer`.
        leak: share of every gradient that is let through in any case, from 0 to 1; 1 is the plain sum.
        pool: at the features, one draw for all images.
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
        pool: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if not 0 <= leak <= 1:
            raise ConfigError(f"balancing.leak: found {leak}; expected a number from 0 to 1")
        self.leak, self.pool = leak, pool

    def aggregate(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],  # noqa: ARG002
        features: Sequence[Tensor],
    ) -> Float[Tensor, " P"]:
        # the generator lives where the rows are: one number per parameter is too many to send there
        generator = torch.Generator(rows.device).manual_seed(seed_for(self.seed, 3, self.memory.step))
        if len(rows) == 1:
            return rows[0]
        if not (self.pool and features):
            return one_signed(rows, _draw(rows, generator), self.leak)
        mixed = []
        columns = zip(*[parted(row, features) for row in rows], strict=True)
        for feature, column in zip(features, columns, strict=True):
            own = torch.stack(column).to(rows)
            # a draw for every value of one image
            signals = (own * feature.detach().sign()).sum(1)
            drawn = _draw(signals.flatten(1), generator).view(signals.shape[1:])
            mixed.append(pooled(own, signals, drawn, self.leak).flatten())
        return torch.cat(mixed)


def one_signed(rows: Float[Tensor, "n P"], drawn: Float[Tensor, " P"], leak: float) -> Float[Tensor, " P"]:
    """In each coordinate the sum of the entries of one sign, and `leak` of those of the other.

    Args:
        rows: task gradients.
        drawn: numbers from [0, 1); the sign is positive where the purity exceeds them.
    """
    # row by row: what would be as large as all of them is never held
    size = torch.zeros_like(rows[0])
    for row in rows:
        size += row.abs()
    positive = (rows.sum(0) + size) / 2
    negative = positive - size
    # the purity is their share of the size
    ascends = positive > drawn * size
    return torch.where(ascends, positive, negative) + leak * torch.where(ascends, negative, positive)


def pooled(
    rows: Float[Tensor, " n images *value"],
    signals: Float[Tensor, " n *value"],
    drawn: Float[Tensor, " *value"],
    leak: float,
) -> Float[Tensor, " images *value"]:
    """The sum of the rows of the tasks whose signal has the sign that is drawn, and `leak` of those of the others."""
    # not a number where no task pulls; no sign is kept there
    purity = (1 + signals.sum(0) / signals.abs().sum(0)) / 2
    kept = torch.where(purity > drawn, signals > 0, signals < 0)
    return (torch.where(kept, 1.0, leak)[:, None] * rows).sum(0)


def _draw(rows: Float[Tensor, "n P"], generator: torch.Generator) -> Float[Tensor, " P"]:
    return torch.rand(rows.shape[1], generator=generator, device=rows.device, dtype=rows.dtype)
