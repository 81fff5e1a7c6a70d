"""Boxes of one image as a tv_tensor: torchvision's transforms move, clip and count what is left of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import TVTensor

COLUMNS = ("x1", "y1", "x2", "y2", "label", "crowd", "area", "visible")


class Boxes(TVTensor):
    """float32 [N, 8], a row a box: x1 y1 x2 y2 in pixels, class index, crowd (0 / 1), area, visible.

    The corner of the first pixel is 0, so that a box over the whole image is 0 0 W H. `area` is in square pixels: the
    box's own, or what a file states (the area of a mask, in COCO). `visible` is the share of the box as it was read
    that crops have left. A box with nothing left stays as a row with `visible` 0, for the task to drop.

    Attributes:
        canvas_size: (height, width) of the image, in pixels.
        notes: what was wrong with boxes when they were read, and with how many.
    """

    canvas_size: tuple[int, int]
    notes: Mapping[str, int]

    @classmethod
    def of(
        cls, rows: Float[Tensor, "N columns"], canvas_size: tuple[int, int], notes: Mapping[str, int] | None = None
    ) -> Boxes:
        """Rows of 5 columns or more; crowd is 0, the area the box's own and all of it visible where they are left out.

        Boxes are clipped to the image; those that are not finite, inverted, without area or outside are dropped and
        noted.
        """
        rows = rows.as_subclass(Tensor).float()
        x1, y1, x2, y2 = rows[:, :4].unbind(1)
        area = (x2 - x1) * (y2 - y1)
        given = [rows[:, i] for i in range(4, rows.shape[1])]
        defaults = [torch.zeros_like(area), torch.zeros_like(area), area, torch.ones_like(area)]
        full = torch.stack([x1, y1, x2, y2, *given, *defaults[len(given) :]], 1)
        sound = full.isfinite().all(1) & (x2 > x1) & (y2 > y1)
        clipped = _clip(full[sound], canvas_size)
        inside = clipped[:, 7] > 0
        found = dict(notes or {})
        over = int((clipped[inside, 7] < 0.999).sum())
        for text, count in (
            ("boxes inverted, without area or not finite: dropped", int((~sound).sum())),
            ("boxes outside the image: dropped", int((~inside).sum())),
            ("boxes that reach over the image's border: clipped", over),
        ):
            if count:
                found[text] = count
        kept = clipped[inside]
        kept[:, 7] = 1  # what lies outside the image was never visible
        return wrapped(kept, canvas_size, found)


def wrapped(rows: Float[Tensor, "N 8"], canvas_size: tuple[int, int], notes: Mapping[str, int]) -> Boxes:
    """Rows as they are."""
    boxes = rows.as_subclass(Boxes)
    boxes.canvas_size, boxes.notes = canvas_size, notes
    return boxes


def _clip(rows: Float[Tensor, "N 8"], canvas_size: tuple[int, int]) -> Float[Tensor, "N 8"]:
    """Rows cut to the canvas; area and visible shrink with the box."""
    height, width = canvas_size
    x1, x2 = rows[:, 0].clamp(0, width), rows[:, 2].clamp(0, width)
    y1, y2 = rows[:, 1].clamp(0, height), rows[:, 3].clamp(0, height)
    before = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    share = torch.where(before > 0, (x2 - x1) * (y2 - y1) / before.clamp(min=1e-12), 0.0)
    return torch.stack([x1, y1, x2, y2, rows[:, 4], rows[:, 5], rows[:, 6] * share, rows[:, 7] * share], 1)


def moved(boxes: Boxes, scale: tuple[float, float], shift: tuple[float, float], canvas: tuple[int, int]) -> Boxes:
    """Boxes times `scale` (x, y) plus `shift` (x, y) pixels, clipped to the new canvas (height, width)."""
    rows = boxes.as_subclass(Tensor).clone()
    rows[:, 0:4:2] = rows[:, 0:4:2] * scale[0] + shift[0]
    rows[:, 1:4:2] = rows[:, 1:4:2] * scale[1] + shift[1]
    rows[:, 6] *= scale[0] * scale[1]
    return wrapped(_clip(rows, canvas), canvas, boxes.notes)


def _resized_crop(boxes: Any, top: int, left: int, height: int, width: int, size: list[int], **_: Any) -> Boxes:
    scale = (size[1] / width, size[0] / height)
    return moved(boxes, scale, (-left * scale[0], -top * scale[1]), (size[0], size[1]))


def _crop(boxes: Any, top: int, left: int, height: int, width: int) -> Boxes:
    return moved(boxes, (1.0, 1.0), (-left, -top), (height, width))


def _resize(boxes: Any, size: list[int], *_: Any, **__: Any) -> Boxes:
    height, width = boxes.canvas_size
    return moved(boxes, (size[1] / width, size[0] / height), (0.0, 0.0), (size[0], size[1]))


def _flip(boxes: Any) -> Boxes:
    rows = boxes.as_subclass(Tensor).clone()
    rows[:, [0, 2]] = boxes.canvas_size[1] - rows[:, [2, 0]]
    return wrapped(rows, boxes.canvas_size, boxes.notes)


def _pad(boxes: Any, padding: list[int], **_: Any) -> Boxes:
    left, top, right, bottom = padding
    height, width = boxes.canvas_size
    return moved(boxes, (1.0, 1.0), (left, top), (height + top + bottom, width + left + right))


for _function, _kernel in (
    (functional.resized_crop, _resized_crop),
    (functional.crop, _crop),
    (functional.resize, _resize),
    (functional.horizontal_flip, _flip),
    (functional.pad, _pad),
):
    functional.register_kernel(_function, tv_tensor_cls=Boxes)(_kernel)
