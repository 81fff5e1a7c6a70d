"""One minus the cosine of the angle between two vectors (Eigen & Fergus 2015, equation 2)."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from segweave.losses.loss import Loss, full, per_image


class Cosine(Loss):
    """Sum of `1 - cos(output, target)` over labelled pixels, from 0 to 2 each; counts those pixels.

    Outputs are vectors [b, 3, H, W] of any length but 0, targets unit vectors with zero vectors where nothing is
    labelled. D. Eigen & R. Fergus, Predicting depth, surface normals and semantic labels with a common multi-scale
    convolutional architecture (2015), equation 2, plus 1, so that what is right costs nothing.
    """

    def count(self, target: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
        return per_image(_known(target))

    def forward(self, output: Float[Tensor, "b 3 H W"], target: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
        direction = unit(output.where(_known(target)[:, None], 0))
        # |a - b|^2 / 2 of unit vectors is 1 - a.b without its cancellation, and never negative
        return (direction - target).square().flatten(1).sum(1) / 2


def unit(vectors: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """The vectors at length 1, at least float32; below a length of 1e-6 they stay short, and their gradient bounded."""
    return nn.functional.normalize(full(vectors), dim=1, eps=1e-6)


def _known(target: Float[Tensor, "b 3 H W"]) -> Bool[Tensor, "b H W"]:
    return (target != 0).any(1)
