"""The part that the overlap losses share: soft intersection and mass per class, and the mean over present classes."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from segweave.losses.loss import Loss, full, labelled, labelled_images, pieces


class Overlap(Loss):
    """Per image, the mean over the classes present in it of what each one's overlap costs; between 0 and 1, count 1.

    Outputs are logits [b, C, H, W], targets class indices [b, H, W] of any integer type: 0 to C - 1 or `ignore`. An
    image with none of the classes costs the mean probability that they get over its labelled pixels, so that false
    positives have a gradient.

    Args:
        ignore: target value that is not labelled.
        first: classes before it are left out of the mean, such as the background of a binary task.
    """

    def __init__(self, ignore: int, first: int = 0) -> None:
        super().__init__()
        self.ignore = ignore
        self.first = first

    @abstractmethod
    def cost(
        self, shared: Float[Tensor, "b C"], predicted: Float[Tensor, "b C"], true: Float[Tensor, "b C"]
    ) -> Float[Tensor, "b C"]:
        """Of a class with this intersection, predicted mass and true mass over an image's labelled pixels; 0 to 1."""

    def count(self, target: Integer[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return labelled_images(labelled(target, self.ignore))

    def forward(self, output: Float[Tensor, "b C H W"], target: Integer[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        shared, predicted, true = soft_overlap(output, target, self.ignore)
        cost = self.cost(shared, predicted, true)[:, self.first :]
        present = (true[:, self.first :] > 0).to(cost.dtype)
        pixels = true.sum(1)
        mean = (cost * present).sum(1) / present.sum(1).clamp(min=1)
        false = predicted[:, self.first :].sum(1) / pixels.clamp(min=1)
        loss = torch.where(present.sum(1) > 0, mean, false)
        # the sums round differently, so that a perfect image could cost -1e-7
        return torch.where(pixels > 0, loss.clamp(0, 1), 0)


def soft_overlap(
    output: Float[Tensor, "b C H W"], target: Integer[Tensor, "b H W"], ignore: int
) -> tuple[Float[Tensor, "b C"], Float[Tensor, "b C"], Float[Tensor, "b C"]]:
    """Intersection, predicted mass and true mass of softmax probabilities and labels, over labelled pixels; 0 to H W.

    The intersection is added up from the one probability that each pixel gives its true class, so that no mask of
    [b, C, H, W] is made or kept for the backward pass.
    """
    parts = [_overlap(full(logits).softmax(1), classes, ignore) for logits, classes in pieces(output, target)]
    shared, predicted, true = (torch.cat(part) for part in zip(*parts, strict=True))
    return shared, predicted, true


def _overlap(
    probabilities: Float[Tensor, "p C H W"], target: Integer[Tensor, "p H W"], ignore: int
) -> tuple[Float[Tensor, "p C"], Float[Tensor, "p C"], Float[Tensor, "p C"]]:
    known = labelled(target, ignore)
    index = target.long().where(known, 0)
    mass = known.to(probabilities.dtype)
    hit = probabilities.gather(1, index[:, None])[:, 0] * mass
    classes = probabilities.shape[1]
    predicted = (probabilities * mass[:, None]).flatten(2).sum(2)
    return _by_class(hit, index, classes), predicted, _by_class(mass, index, classes)


def _by_class(
    values: Float[Tensor, "p H W"], index: Int64[Tensor, "p H W"], classes: int
) -> Float[Tensor, "p {classes}"]:
    """Sum of the values of each class: per row first, because one long chain of additions loses digits in float32."""
    rows = values.new_zeros(*index.shape[:2], classes)
    return rows.scatter_add(2, index, values).sum(1)
