"""Lovasz-Softmax: the Jaccard loss of sorted errors, extended to probabilities (Berman et al. 2018, equation 11)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from segweave.losses.loss import Loss, full, labelled, labelled_images, pieces


class LovaszSoftmax(Loss):
    """Per image, the mean over the classes present in it of the Lovasz extension of 1 - IoU; between 0 and 1, count 1.

    Outputs are logits [b, C, H, W], targets class indices [b, H, W] of any integer type: 0 to C - 1 or `ignore`. At
    probabilities of 0 and 1 it is exactly 1 minus the image's mean IoU, and in between convex in them. The binary task
    has one class, whose probability is a sigmoid: this is Lovasz-Softmax over that class, not the Lovasz hinge of
    the same paper's section 3, which is a function of margins. An image with none of the classes costs the largest
    probability that they get there, which is the extension's own value. M. Berman, A. R. Triki & M. B. Blaschko, The
    Lovasz-Softmax loss (2018), equation 11 and algorithm 1.

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
        return torch.cat([self._costs(logits, classes) for logits, classes in pieces(output, target)])

    def _costs(self, output: Float[Tensor, "p C H W"], target: Integer[Tensor, "p H W"]) -> Float[Tensor, " p"]:
        probability = full(output).softmax(1).flatten(2)[:, self.first :]
        target = target.flatten(1)[:, None]
        known = labelled(target, self.ignore)
        classes = torch.arange(self.first, output.shape[1], device=output.device)[:, None]
        true = (target == classes) & known
        # an error is 0 or more: unlabelled pixels go behind all others
        errors, order = torch.where(true, 1 - probability, probability).where(known, -1).sort(2, descending=True)
        increments = _increments(true.gather(2, order), true.sum(2, keepdim=True), errors.dtype)
        cost = (errors.clamp(min=0) * increments).sum(2)
        present = true.any(2)
        counted = torch.where(present.any(1, keepdim=True), present, True).to(cost.dtype)
        # the sums round, so that the worst image could cost 1 + 1e-7
        return ((cost * counted).sum(1) / counted.sum(1)).clamp(0, 1)


def _increments(true: Tensor, total: Tensor, dtype: torch.dtype) -> Tensor:
    """By how much 1 - IoU grows with each further wrong pixel, hardest first: algorithm 1 without its differences.

    With I of the class's pixels still right and a union of U, a miss adds 1 / U, a false positive I / (U (U - 1)); to
    subtract one IoU from the next would leave two digits of float32 in an image of a million pixels.
    """
    right = (total - true.cumsum(2, dtype=torch.int32)).to(dtype)
    union = (total + (~true).cumsum(2, dtype=torch.int32)).to(dtype)
    false = (right / (union * (union - 1)).clamp(min=1)).where(union > 1, 1)
    return torch.where(true, 1 / union.clamp(min=1), false)
