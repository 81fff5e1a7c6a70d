"""Soft Dice loss with plain sums in the denominator (Sudre et al. 2017, DL2 with two classes)."""

from __future__ import annotations

from jaxtyping import Float, Integer
from torch import Tensor

from segweave.losses.loss import Loss, labelled, labelled_images
from segweave.losses.overlap import mean_over_present, soft_overlap


class Dice(Loss):
    """Per image, 1 minus the mean of `2 I / (P + G)` over the classes present in it; between 0 and 1, count 1.

    Outputs are logits [b, C, H, W], targets class indices [b, H, W] of any integer type: 0 to C - 1 or `ignore`. I, P
    and G are the intersection, the predicted mass and the true mass of a class over the image's labelled pixels. An
    image with none of the classes costs the mean probability that they get there, so that false positives cost too.
    C. H. Sudre et al., Generalised Dice overlap as a deep learning loss function (2017), DL2: here per class and
    without its epsilon.

    Args:
        ignore: target value that is not labelled.
        first: classes before it are left out of the mean, such as the background of a binary task.
    """

    def __init__(self, ignore: int, first: int = 0) -> None:
        super().__init__()
        self.ignore = ignore
        self.first = first

    def count(self, target: Integer[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return labelled_images(labelled(target, self.ignore))

    def forward(self, output: Float[Tensor, "b C H W"], target: Integer[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        shared, predicted, true = soft_overlap(output, target, self.ignore)
        return mean_over_present(2 * shared / (predicted + true).clamp(min=1e-7), predicted, true, self.first)
