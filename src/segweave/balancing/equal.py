"""The plain sum of alpha_i L_i."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer


class Equal(LossBalancer):
    """Every alpha_i L_i with weight 1, also called linear scalarisation."""

    cost = "none"
    paper = "-"

    def combine(
        self,
        losses: Float[Tensor, " n"],
        tasks: Sequence[str],  # noqa: ARG002
        last: bool,  # noqa: ARG002
        whole: Float[Tensor, " n"],  # noqa: ARG002
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        return losses.sum(), torch.ones_like(losses)
