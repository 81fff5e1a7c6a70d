"""Soft Dice loss with plain sums in the denominator (Sudre et al. 2017, DL2 with two classes)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from segweave.losses.overlap import Overlap


class Dice(Overlap):
    """Per image, 1 minus the mean of `2 I / (P + G)` over the classes present in it; between 0 and 1, count 1.

    I, P and G are the intersection, the predicted mass and the true mass of a class over the image's labelled pixels;
    shapes, arguments and images without a class are those of `Overlap`. C. H. Sudre et al., Generalised Dice overlap
    as a deep learning loss function (2017), DL2: here per class and without its epsilon.
    """

    def cost(
        self, shared: Float[Tensor, "b C"], predicted: Float[Tensor, "b C"], true: Float[Tensor, "b C"]
    ) -> Float[Tensor, "b C"]:
        return 1 - 2 * shared / (predicted + true).clamp(min=1e-7)
