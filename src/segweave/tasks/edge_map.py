"""Edge maps as tv_tensors: lines of one pixel that stay whole when the image is reduced."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torchvision.transforms.v2 import functional

from segweave.tasks.maps import DenseMap, nearest


class EdgeMap(DenseMap):
    """[H, W] of 0 (no edge), 1 (edge) and other values, such as 255 for what is not labelled.

    Along an axis that is reduced, a pixel is an edge where the centre of some edge pixel falls into it, whatever else
    does: no line is cut, as the nearest pixel alone would, and none gets thicker. Along an axis that is enlarged, and
    for all other values, the pixel whose centre is nearest counts, as in every `DenseMap`.
    """


@functional.register_kernel(functional.resize, tv_tensor_cls=EdgeMap)
def _resize(value: EdgeMap, size: list[int], *_: Any, **__: Any) -> EdgeMap:
    nearest = functional.resize(value.as_subclass(DenseMap), size).as_subclass(Tensor)
    edges = value.as_subclass(Tensor) == 1
    for axis, length in enumerate(size):
        edges = _along(edges, axis, length)
    return EdgeMap(nearest.masked_fill(edges, 1))


def _along(edges: Bool[Tensor, "H W"], axis: int, length: int) -> Bool[Tensor, "h w"]:
    old = edges.shape[axis]
    if length >= old:
        return edges.index_select(axis, torch.from_numpy(nearest(old, length)))
    there = torch.zeros(length if axis == 0 else edges.shape[0], length if axis == 1 else edges.shape[1])
    return there.index_add(axis, torch.from_numpy(nearest(length, old)), edges.float()) > 0
