"""Tversky loss: Dice with a price of its own for each kind of error (Salehi et al. 2017, equation 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.errors import ConfigError
from segweave.losses.overlap import Overlap


class Tversky(Overlap):
    """Per image, the mean of `(1 - T)^(1 / gamma)` over the classes present in it; between 0 and 1, count 1.

    `T = I / (I + alpha (P - I) + beta (G - I))`; I, P and G are the intersection, the predicted mass and the true mass
    of a class over the image's labelled pixels, so that alpha is the price of a false positive and beta that of a
    missed pixel. Shapes and images without a class are those of `Overlap`. alpha = beta = 0.5 is `dice`, 1 is `iou`.
    S. S. M. Salehi, D. Erdogmus & A. Gholipour, Tversky loss function for image segmentation using 3D fully
    convolutional deep networks (2017), equation 3; with gamma N. Abraham & N. M. Khan, A novel focal Tversky loss
    function (2018), equation 4.

    Args:
        ignore: target value that is not labelled.
        first: classes before it are left out of the mean, such as the background of a binary task.
        alpha: price of false positives, above 0.
        beta: price of misses, above 0.
        gamma: above 1, as in Abraham & Khan's 4/3, classes that are nearly right matter more; 1 is Salehi's loss.

    Raises:
        ConfigError: a value that is not above 0.
    """

    def __init__(
        self, ignore: int, first: int = 0, *, alpha: float = 0.3, beta: float = 0.7, gamma: float = 1.0
    ) -> None:
        super().__init__(ignore, first)
        for key, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            if not value > 0:
                raise ConfigError(f"tversky.{key}: found {value}; expected a number above 0")
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def cost(
        self, shared: Float[Tensor, "b C"], predicted: Float[Tensor, "b C"], true: Float[Tensor, "b C"]
    ) -> Float[Tensor, "b C"]:
        wrong = self.alpha * (predicted - shared) + self.beta * (true - shared)
        cost = wrong / (shared + wrong).clamp(min=1e-7)
        if self.gamma == 1:
            return cost
        # the root of 0 has an infinite slope
        return cost.clamp(min=torch.finfo(cost.dtype).eps).pow(1 / self.gamma)
