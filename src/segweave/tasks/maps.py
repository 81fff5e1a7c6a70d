"""Dense annotations as tv_tensors: torchvision's transforms move them without ever mixing two values."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import TVTensor


class DenseMap(TVTensor):
    """[H, W] of class ids, metres or other values that must not be interpolated.

    torchvision's own kernel for masks takes the pixel at `floor(x * scale)`, which lies up to half a pixel from where
    the image's interpolation puts the same point; these kernels take the pixel whose centre is nearest.
    """


def _resize(value: Tensor, size: list[int], *_: Any, **__: Any) -> DenseMap:
    plain = value.as_subclass(Tensor)[None, None]
    return DenseMap(nn.functional.interpolate(plain, tuple(size), mode="nearest-exact")[0, 0])


def _crop(value: Tensor, top: int, left: int, height: int, width: int) -> DenseMap:
    return DenseMap(functional.crop(value.as_subclass(Tensor)[None], top, left, height, width)[0])


def _flip(value: Tensor) -> DenseMap:
    return DenseMap(value.as_subclass(Tensor).flip(-1))


def _pad(value: Tensor, padding: list[int], fill: float = 0, **_: Any) -> DenseMap:
    return DenseMap(functional.pad(value.as_subclass(Tensor)[None], padding, fill=fill)[0])


def _resized_crop(value: Tensor, top: int, left: int, height: int, width: int, size: list[int], **_: Any) -> DenseMap:
    return _resize(_crop(value, top, left, height, width), size)


for _function, _kernel in (
    (functional.resize, _resize),
    (functional.crop, _crop),
    (functional.horizontal_flip, _flip),
    (functional.pad, _pad),
    (functional.resized_crop, _resized_crop),
):
    functional.register_kernel(_function, tv_tensor_cls=DenseMap)(_kernel)
