"""Soft Jaccard loss (Rahman & Wang 2016, equations 3 to 5)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from segweave.losses.overlap import Overlap


class SoftIoU(Overlap):
    """Per image, 1 minus the mean of `I / (P + G - I)` over the classes present in it; between 0 and 1, count 1.

    I, P and G are the intersection, the predicted mass and the true mass of a class over the image's labelled pixels;
    shapes, arguments and images without a class are those of `Overlap`. M. A. Rahman & Y. Wang, Optimizing
    intersection-over-union in deep neural networks for image segmentation (2016), equations 3 to 5: here per class of
    a softmax.
    """

    def cost(
        self, shared: Float[Tensor, "b C"], predicted: Float[Tensor, "b C"], true: Float[Tensor, "b C"]
    ) -> Float[Tensor, "b C"]:
        return 1 - shared / (predicted + true - shared).clamp(min=1e-7)
