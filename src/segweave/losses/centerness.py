"""Centre-ness loss of anchor-free detection (Tian et al. 2019, equation 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.losses.loss import Loss, full, per_image


class Centerness(Loss):
    """Sum over points inside a box of the binary cross-entropy between the predicted and the true centre-ness.

    Outputs are logits [b, P], targets the distances [b, P, 4] in pixels from a point to the left, top, right and
    bottom of its box; a point with a distance below 0 lies in no box. True centre-ness is
    `sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`, between 0 and 1; its own entropy is subtracted, so that a
    perfect output costs 0. Counts the points inside a box. Z. Tian et al., FCOS: fully convolutional one-stage object
    detection (2019), equation 3 and the BCE below it.
    """

    def count(self, target: Float[Tensor, "b P 4"]) -> Float[Tensor, " b"]:
        return per_image((target >= 0).all(-1))

    def forward(self, output: Float[Tensor, "b P"], target: Float[Tensor, "b P 4"]) -> Float[Tensor, " b"]:
        inside = (target >= 0).all(-1)
        left, top, right, bottom = target.to(full(output)).clamp(min=0).unbind(-1)
        across = left.minimum(right) / left.maximum(right).clamp(min=1e-7)
        down = top.minimum(bottom) / top.maximum(bottom).clamp(min=1e-7)
        centred = (across * down).sqrt()
        cost = nn.functional.binary_cross_entropy_with_logits(full(output), centred, reduction="none")
        # `binary_cross_entropy` is the obvious call, and CUDA's autocast refuses it
        least = -torch.xlogy(centred, centred) - torch.xlogy(1 - centred, 1 - centred)
        return (cost - least).clamp(min=0).where(inside, 0).sum(1)
