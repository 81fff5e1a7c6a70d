"""Mean absolute error of depth (Ma & Karaman 2018, section III-D) and of unit vectors."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from segweave.losses.loss import Loss, full, per_image


class L1(Loss):
    """Sum of `|output - target|` over labelled pixels, 0 or more; counts those pixels.

    Outputs and targets are metres [b, H, W], where a target of 0 is not measured, or unit vectors [b, 3, H, W], where
    zero vectors are not labelled. Of vectors it is the sum over the components; code that averages over them too, as
    MTI-Net's does, has a third of it. F. Ma & S. Karaman, Sparse-to-Dense (2018), section III-D.
    """

    def count(self, target: Float[Tensor, "b *C H W"]) -> Float[Tensor, " b"]:
        return per_image(_known(target))

    def forward(self, output: Float[Tensor, "b *C H W"], target: Float[Tensor, "b *C H W"]) -> Float[Tensor, " b"]:
        known = _known(target)
        known = known[:, None] if target.ndim == 4 else known
        return (full(output) - target).where(known, 0).abs().flatten(1).sum(1)


def _known(target: Float[Tensor, "b *C H W"]) -> Bool[Tensor, "b H W"]:
    return (target != 0).any(1) if target.ndim == 4 else target > 0
