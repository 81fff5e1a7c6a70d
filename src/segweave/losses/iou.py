"""Soft Jaccard loss (Rahman & Wang 2016, equations 3 to 5)."""

from __future__ import annotations

from jaxtyping import Float, Integer
from torch import Tensor

from segweave.losses.loss import Loss, labelled, labelled_images
from segweave.losses.overlap import mean_over_present, soft_overlap


class SoftIoU(Loss):
    """Per image, 1 minus the mean of `I / (P + G - I)` over the classes present in it; between 0 and 1, count 1.

    Outputs are logits [b, C, H, W], targets class indices [b, H, W] of any integer type: 0 to C - 1 or `ignore`. I, P
    and G are the intersection, the predicted mass and the true mass of a class over the image's labelled pixels. An
    image with none of the classes costs the mean probability that they get there, so that false positives cost too.
    M. A. Rahman & Y. Wang, Optimizing intersection-over-union in deep neural networks for image segmentation (2016),
    equations 3 to 5: here per class of a softmax.

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
        return mean_over_present(shared / (predicted + true - shared).clamp(min=1e-7), predicted, true, self.first)
