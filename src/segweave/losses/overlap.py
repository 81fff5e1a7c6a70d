"""The part that the overlap losses share: soft intersection and mass per class, and the mean over present classes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from segweave.losses.loss import full, labelled, pieces


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


def mean_over_present(
    score: Float[Tensor, "b C"], predicted: Float[Tensor, "b C"], true: Float[Tensor, "b C"], first: int
) -> Float[Tensor, " b"]:
    """One minus the mean score over the classes from `first` on that the image has; between 0 and 1.

    An image without any of them (a negative image of a binary task) costs the mean probability that the network gives
    them over its labelled pixels, so that false positives have a gradient; an image without labels costs 0.
    """
    present = (true[:, first:] > 0).to(score.dtype)
    pixels = true.sum(1)
    mean = (score[:, first:] * present).sum(1) / present.sum(1).clamp(min=1)
    false = predicted[:, first:].sum(1) / pixels.clamp(min=1)
    loss = torch.where(present.sum(1) > 0, 1 - mean, false)
    # the sums round differently, so that a perfect image could cost -1e-7
    return torch.where(pixels > 0, loss.clamp(0, 1), 0)
