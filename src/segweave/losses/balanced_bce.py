"""Class-balanced cross-entropy of edges (Xie & Tu 2015, equation 2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segweave.errors import ConfigError
from segweave.losses.loss import Loss, full, labelled, per_image, pieces


class BalancedBCE(Loss):
    """Sum over labelled pixels of `-beta t log s - (1 - beta) (1 - t) log(1 - s)`, 0 or more; counts those pixels.

    s = sigmoid(x) is the probability of an edge, t is 1 on an edge and else 0, and beta is the share of the image's
    labelled pixels that are no edge, so that the few edges weigh as much as all the rest together. Outputs are
    the pair (0, x) of a binary task, [b, 2, H, W] (only their difference counts); targets class indices [b, H, W] of
    any integer type, 0, 1 or `ignore`. S. Xie & Z. Tu, Holistically-nested edge detection (2015), equation 2, as a mean
    over pixels where the paper has the sum.

    An image without an edge has beta 1: its loss is 0 and it teaches nothing. A fixed `pos_weight` learns from it too:
    0.95 in the multi-task settings of PASCAL-Context and NYUv2, which also weigh the whole loss by 50 (S. Vandenhende,
    S. Georgoulis & L. Van Gool, MTI-Net, 2020).

    Args:
        ignore: target value that is not labelled.
        pos_weight: beta for every image, between 0 and 1; by default its own.

    Raises:
        ConfigError: pos_weight not between 0 and 1.
    """

    def __init__(self, ignore: int, *, pos_weight: float | None = None) -> None:
        super().__init__()
        if pos_weight is not None and not 0 < pos_weight < 1:
            raise ConfigError(f"balanced_bce.pos_weight: found {pos_weight}; expected a number between 0 and 1")
        self.ignore = ignore
        self.pos_weight = pos_weight

    def count(self, target: Integer[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return per_image(labelled(target, self.ignore))

    def forward(self, output: Float[Tensor, "b 2 H W"], target: Integer[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return torch.cat([self._sums(logits, classes) for logits, classes in pieces(output, target)])

    def _sums(self, output: Float[Tensor, "p 2 H W"], target: Integer[Tensor, "p H W"]) -> Float[Tensor, " p"]:
        pair = full(output)
        known = labelled(target, self.ignore)
        edge = (target == 1) & known
        logits = (pair[:, 1] - pair[:, 0]).where(known, 0)
        entries = nn.functional.binary_cross_entropy_with_logits(logits, edge.to(logits.dtype), reduction="none")
        if self.pos_weight is None:
            beta = (per_image(known & ~edge) / per_image(known).clamp(min=1)).to(logits.dtype)[:, None, None]
        else:
            beta = logits.new_tensor(self.pos_weight)
        return (entries * torch.where(edge, beta, 1 - beta) * known).flatten(1).sum(1)
