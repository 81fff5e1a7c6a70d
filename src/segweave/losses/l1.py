"""Mean absolute error of depth."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from segweave.losses.loss import Loss, full


class L1(Loss):
    """Sum of `|output - target|` in metres over measured pixels (target above 0); counts those pixels.

    Outputs and targets are metres [b, H, W]; a target of 0 is not measured.
    """

    def count(self, target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return (target > 0).flatten(1).sum(1).float()

    def forward(self, output: Float[Tensor, "b H W"], target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return (full(output) - target).where(target > 0, 0).abs().flatten(1).sum(1)
