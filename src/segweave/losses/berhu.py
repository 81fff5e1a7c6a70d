"""Reverse Huber loss of depth: absolute for small errors, squared for large ones (Laina et al. 2016, equation 1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.losses.loss import Loss, full, per_image


class BerHu(Loss):
    """Sum over measured pixels of `|e|` up to c and `(e^2 + c^2) / (2 c)` beyond, 0 or more; counts those pixels.

    Outputs and targets are metres [b, H, W], e their difference; a target of 0 is not measured. c is a fifth of the
    image's largest error, where the paper takes the largest of the batch, and is a constant of the step: no gradient
    goes through it, or the worst pixel would make itself worse to raise the others' threshold. I. Laina et al., Deeper
    depth prediction with fully convolutional residual networks (2016), equation 1.
    """

    def count(self, target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return per_image(target > 0)

    def forward(self, output: Float[Tensor, "b H W"], target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        error = (full(output) - target).where(target > 0, 0).abs().flatten(1)
        # an image without error has no threshold to divide by
        threshold = (error.detach().amax(1, keepdim=True) / 5).clamp(min=torch.finfo(error.dtype).tiny)
        return torch.where(error <= threshold, error, (error.square() / threshold + threshold) / 2).sum(1)
