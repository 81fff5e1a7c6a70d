"""Mean absolute error of depth (Ma & Karaman 2018, section III-D)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from segweave.losses.loss import Loss, full, per_image


class L1(Loss):
    """Sum of `|output - target|` in metres over measured pixels (target above 0), 0 or more; counts those pixels.

    Outputs and targets are metres [b, H, W]; a target of 0 is not measured. F. Ma & S. Karaman, Sparse-to-Dense
    (2018), section III-D.
    """

    def count(self, target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return per_image(target > 0)

    def forward(self, output: Float[Tensor, "b H W"], target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return (full(output) - target).where(target > 0, 0).abs().flatten(1).sum(1)
