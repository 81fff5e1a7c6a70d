"""The part that the overlap losses share: soft intersection and mass per class, and the mean over present classes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from segweave.losses.loss import full


def soft_overlap(
    output: Float[Tensor, "b C H W"], target: Integer[Tensor, "b H W"], ignore: int
) -> tuple[Float[Tensor, "b C"], Float[Tensor, "b C"], Float[Tensor, "b C"]]:
    """Intersection, predicted mass and true mass of softmax probabilities and labels, over labelled pixels."""
    probabilities = full(output).flatten(2).softmax(1)
    labels = target.long().flatten(1)[:, None]
    labelled = labels != ignore
    truth = (labels == torch.arange(output.shape[1], device=output.device)[:, None]) & labelled
    shared = probabilities.where(truth, 0).sum(2)
    return shared, probabilities.where(labelled, 0).sum(2), truth.sum(2).to(shared.dtype)


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
    return torch.where(pixels > 0, loss, 0)


def labelled_images(target: Integer[Tensor, "b H W"], ignore: int) -> Float[Tensor, " b"]:
    """1 for every image with a labelled pixel, else 0."""
    return (target.long() != ignore).flatten(1).any(1).float()
