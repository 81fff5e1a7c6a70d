"""Geometric loss strategy, GLS (Chennupati et al. 2019, MultiNet++)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer

_SMALL = 1e-8


class GeometricMean(LossBalancer):
    """The gradient of the geometric mean `G = (prod_i L_i)^(1/n)` of the losses: weights `G / (n L_i)`.

    The scale of a loss multiplies all weights alike, so that it does not matter which unit a loss has. The weights are
    those of the whole effective batch and multiply each micro-batch's share of the losses, which makes the gradient
    exact; a loss of 0 counts as 1e-8.
    """

    cost = "none; with several micro-batches a forward pass more"
    paper = "Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy, CVPRW 2019"
    ahead = True

    def combine(
        self,
        losses: Float[Tensor, " n"],
        tasks: Sequence[str],
        last: bool,  # noqa: ARG002
        whole: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        if not tasks:
            return losses.sum(), losses
        logs = (whole.clamp(min=0) + _SMALL).log()
        weights = (logs.mean() - logs).exp() / len(tasks)
        return (weights * losses).sum(), weights
