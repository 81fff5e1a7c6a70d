"""Generalised IoU loss of boxes (Rezatofighi et al. 2019, equation 3 and section 3.1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segweave.losses.loss import Loss, full, per_image


class GIoU(Loss):
    """Sum over points with a box of `1 - IoU + (hull - union) / hull`, between 0 and 2 each; counts those points.

    Outputs and targets are boxes [b, P, 4], x1 y1 x2 y2 in pixels; a target without area (x2 <= x1 or y2 <= y1) is no
    box. H. Rezatofighi et al., Generalized intersection over union (2019), equation 3 and section 3.1.
    """

    def count(self, target: Float[Tensor, "b P 4"]) -> Float[Tensor, " b"]:
        return per_image(_has_area(target))

    def forward(self, output: Float[Tensor, "b P 4"], target: Float[Tensor, "b P 4"]) -> Float[Tensor, " b"]:
        known = _has_area(target)
        # a unit box in the others' place: every quotient has a gradient, and `where` gives it no weight
        unit = target.new_tensor([0.0, 0.0, 1.0, 1.0]).to(full(output))
        found = torch.where(known[..., None], full(output), unit)
        true = torch.where(known[..., None], target.to(found), unit)
        least, most = torch.minimum(found, true), torch.maximum(found, true)
        shared = _area(torch.cat([most[..., :2], least[..., 2:]], -1))
        hull = _area(torch.cat([least[..., :2], most[..., 2:]], -1))
        union = (_area(found) + _area(true) - shared).clamp(min=1e-7)
        cost = 1 - shared / union + (hull - union) / hull.clamp(min=1e-7)
        return torch.where(known, cost.clamp(min=0), 0).sum(1)


def _has_area(boxes: Float[Tensor, "b P 4"]) -> Bool[Tensor, "b P"]:
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def _area(boxes: Float[Tensor, "b P 4"]) -> Float[Tensor, "b P"]:
    """Of an inverted box, such as the overlap of two that do not meet, 0."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
