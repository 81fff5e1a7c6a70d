"""Boundary loss: probability weighed by its distance from the true boundary (Kervadec et al. 2019, equation 5)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from segweave.losses.loss import Loss, full, labelled, per_image, pieces

_AT_ONCE = 2**26
"""Distances of pairs of pixels that are compared together on a GPU (256 MiB)."""


class Boundary(Loss):
    """Sum over labelled pixels of `sum_c s_c (phi_c - phi_y)` in pixels, 0 or more; counts labelled pixels.

    Outputs are logits [b, C, H, W] with softmax s, targets class indices y [b, H, W] of any integer type: 0 to C - 1 or
    `ignore`. phi_c is the signed distance map of class c: outside it the distance to its nearest pixel, inside 1 minus
    the distance to the nearest labelled pixel of another class. The paper's `sum_c s_c phi_c` is negative inside; less
    its value `phi_y` at the truth, which no weight can change, it has the same gradient and is 0 where all is right.
    A class that is absent, or alone in its image, has no boundary and phi 0: such an image gives no or a weak
    gradient, so the loss belongs beside a region loss, as in the paper, with a weight that suits its pixels, such
    as 0.01. H. Kervadec et al., Boundary loss for highly unbalanced segmentation (2019), equation 5.

    The maps are made anew for every batch: on a CPU by scipy, about 4 ms per class present and image of 180 x 240; on
    CUDA by comparing all pixels of a row, without waiting for the GPU.

    Args:
        ignore: target value that is not labelled.
        first: classes before it are left out, such as the background of a binary task.
    """

    def __init__(self, ignore: int, first: int = 0) -> None:
        super().__init__()
        self.ignore = ignore
        self.first = first

    def count(self, target: Integer[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return per_image(labelled(target, self.ignore))

    def forward(self, output: Float[Tensor, "b C H W"], target: Integer[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return torch.cat([self._sums(logits, classes) for logits, classes in pieces(output, target)])

    def _sums(self, output: Float[Tensor, "p C H W"], target: Integer[Tensor, "p H W"]) -> Float[Tensor, " p"]:
        probability = full(output).softmax(1)
        known = labelled(target, self.ignore)
        index = target.long().where(known, -1)
        distance = signed_distances(index, output.shape[1]).to(probability)
        distance = torch.cat([torch.zeros_like(distance[:, : self.first]), distance[:, self.first :]], 1)
        at_truth = distance.gather(1, index.clamp(min=0)[:, None])
        return (probability * (distance - at_truth).where(known[:, None], 0)).flatten(1).sum(1)


@torch.library.custom_op("segweave::signed_distances", mutates_args=(), schema="(Tensor target, int classes) -> Tensor")
def signed_distances(target: Tensor, classes: int) -> Tensor:
    """Class indices [b, H, W], -1 where unlabelled, to signed distance maps [b, classes, H, W] in pixels, float32.

    One operator for `torch.compile`, `torch.func.vmap` and every device.
    """
    import scipy.ndimage

    distance: Any = scipy.ndimage.distance_transform_edt
    maps = torch.zeros(len(target), classes, *target.shape[1:])
    for labels, layers in zip(target.cpu().numpy(), maps.numpy(), strict=True):
        for index, layer in enumerate(layers):
            inside, outside = labels == index, (labels != index) & (labels >= 0)
            if inside.any() and outside.any():
                layer[...] = distance(~inside)
                layer[inside] = 1 - distance(~outside)[inside]
    return maps.to(target.device)


@signed_distances.register_fake
def _shape(target: Tensor, classes: int) -> Tensor:
    return target.new_empty((len(target), classes, *target.shape[1:]), dtype=torch.float32)


@signed_distances.register_vmap
def _batched(info: Any, dims: tuple[int | None, ...], target: Tensor, classes: int) -> tuple[Tensor, int]:
    assert dims[0] is not None, "an operator is batched by its only tensor"
    rows = target.movedim(dims[0], 0)
    return signed_distances(rows.flatten(0, 1), classes).unflatten(0, (info.batch_size, rows.shape[1])), 0


@signed_distances.register_kernel("cuda")
def by_comparison(target: Tensor, classes: int) -> Tensor:
    """The same without a copy to the host, in O(H W^2) for a class."""
    inside = target[:, None] == torch.arange(classes, device=target.device)[:, None, None]
    outside = ~inside & (target >= 0)[:, None]
    both = (inside.flatten(2).any(2) & outside.flatten(2).any(2))[..., None, None]
    return torch.where(inside, 1 - _distance(outside), _distance(inside)).where(both, 0)


def _distance(seeds: Tensor) -> Tensor:
    """Euclidean distance of every pixel [b, C, H, W] to the nearest seed of its map: first down, then across."""
    height, width = seeds.shape[2:]
    far = float(2 * (height + width))
    y = torch.arange(height, device=seeds.device, dtype=torch.float32)[:, None]
    above = y - torch.where(seeds, y, -far).cummax(2).values
    below = torch.where(seeds, y, height + far).flip(2).cummin(2).values.flip(2) - y
    down = torch.minimum(above, below).square().flatten(0, 2)
    x = torch.arange(width, device=seeds.device, dtype=torch.float32)
    across = (x[:, None] - x).square()
    rows = down.split(max(1, _AT_ONCE // width**2))
    return torch.cat([(row[:, None] + across).amin(2) for row in rows]).sqrt().view(seeds.shape)
