"""Images and predictions at the size that a picture needs."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional

from segweave.data.augment import to_float
from segweave.tasks.task import Prediction

_COUNTED = 2**20
"""Pixels of which percentiles are taken."""
_ROUNDING = 1e-5
"""Range relative to the values below which a band is constant: resizing leaves that much."""


def shown(image: Shaped[Tensor, "C H W"], size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """The image as uint8 at a size [h, w]: its first three bands, or its first one as grey where it has fewer.

    8-bit values are shown as they are. Others use a part of their range only: each band is stretched from its 2nd to
    its 98th percentile, as GIS programs show it; a constant band is not.
    """
    image = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    if image.shape[-2:] != size:
        image = functional.resize(image if image.dtype == torch.uint8 else to_float(image), list(size), antialias=True)
    return image if image.dtype == torch.uint8 else _stretched(to_float(image))


def _stretched(image: Float32[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    values = image.flatten(1)
    few = values[:, :: -(-values.shape[1] // _COUNTED)].nan_to_num()
    low, high = few.quantile(torch.tensor([0.02, 0.98]), 1)[:, :, None, None]
    flat = high - low <= _ROUNDING * high.abs()
    stretched = (image - torch.where(flat, 0, low)) / torch.where(flat, 1, high - low)
    return (stretched.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)


def thinned(prediction: Prediction, height: int, width: int, size: tuple[int, int]) -> Prediction:
    """Maps of an image by the nearest of their pixels at a smaller size."""
    if size == (height, width):
        return prediction
    down, across = (
        ((torch.arange(n) + 0.5) * (full / n)).long() for n, full in zip(size, (height, width), strict=True)
    )
    maps = {key for key, value in prediction.items() if value.shape[-2:] == (height, width)}
    return {k: v[..., down, :][..., across] if k in maps else v for k, v in prediction.items()}
