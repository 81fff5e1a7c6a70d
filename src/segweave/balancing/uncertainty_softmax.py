"""Soft optimal uncertainty weighting, UW-SO (Kirchdorfer et al. 2024, arXiv 2408.07985)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer
from segweave.errors import ConfigError

_SMALL = 1e-8


class UncertaintySoftmax(LossBalancer):
    """`sum_i w_i L_i` with `w = softmax(1 / (T L))`, not differentiated: the uncertainty weights in closed form.

    1 / L_i is the analytical optimum of uncertainty weighting; the softmax bounds it, and its weights sum to 1. The
    smaller a loss, the larger its weight. It does not commute with a rescaling of all losses, so that T depends on
    their scale: the paper searches for it.

    Args:
        tasks, seed, monitor: of `LossBalancer`.
        temperature: T, above 0; the larger, the more alike the weights.

    Raises:
        ConfigError: a temperature that is not above 0.
    """

    cost = "none; with several micro-batches a forward pass more"
    paper = "Kirchdorfer et al., Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning, GCPR 2024"
    ahead = True

    def __init__(
        self, tasks: Sequence[str] = (), seed: int = 0, *, temperature: float = 1.0, monitor: bool = False
    ) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        if not temperature > 0:
            raise ConfigError(f"balancing.temperature: found {temperature}; expected a number above 0")
        self.temperature = temperature

    def combine(
        self,
        losses: Float[Tensor, " n"],
        tasks: Sequence[str],  # noqa: ARG002
        last: bool,  # noqa: ARG002
        whole: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        weights = torch.softmax(1 / (whole.clamp(min=0) + _SMALL) / self.temperature, 0)
        return (weights * losses).sum(), weights
