"""Edge-aware smoothness: a prediction changes where the image does (Godard et al. 2017, section 3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.regularizers.regularizer import Part, Regularizer


class Smoothness(Regularizer):
    """`mean |d_x p| exp(-|d_x I|) + mean |d_y p| exp(-|d_y I|)`, at least 0, over a task's map p and the images I.

    d_x and d_y are differences of neighbouring pixels, |d I| the mean over the bands of images in [0, 1], and means
    run over images, channels and the pairs of pixels. p is the probabilities of the classes or the logarithm of the
    depth: the differences of the logarithm stay what they are when all depths shrink, which Monodepth2 reaches by
    dividing by their mean. Needs no labels: the head runs on all images. C. Godard, O. Mac Aodha & G. J. Brostow,
    Unsupervised monocular depth estimation with left-right consistency (2017), section 3.3,
    disparity smoothness.
    """

    fits = ("map",)
    soft = True

    def forward(self, part: Part) -> Float[Tensor, ""]:
        assert part.images is not None
        prediction = part.soft()
        total = torch.zeros((), dtype=prediction.dtype, device=prediction.device)
        for axis in (-1, -2):
            edges = part.images.diff(dim=axis).abs().mean(1, keepdim=True).to(prediction.dtype)
            slopes = prediction.diff(dim=axis).abs() * torch.exp(-edges)
            # an image of one row has no pixels below each other
            total = total + slopes.sum() / max(1, slopes.numel())
        return total
