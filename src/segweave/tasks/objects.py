"""Objects as boxes, from masks of class indices or of instances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_BACKGROUND = (0, 255)


def objects_of(
    values: np.ndarray, how: str, classes: Mapping[int, int] | None, min_pixels: int
) -> list[tuple[float, float, float, float, float, float, float]]:
    """Rows x1 y1 x2 y2 class crowd area; the box ends behind the object's last pixel, the area is its pixels.

    Args:
        values: [H, W] of whole numbers.
        how: `components` makes an object of every connected region of a value (touching corners connect); `instances`
            of every value, where values from 1000 on are 1000 times the class's value plus a number, as in Cityscapes.
        classes: class by mask value; None for class 0 wherever the value is neither 0 nor 255.
        min_pixels: smaller objects are left out.
    """
    from scipy import ndimage  # takes a third of a second, and only masks need it

    rows = []
    found, numbers = np.unique(values, return_inverse=True)
    numbers = numbers.reshape(values.shape) + 1
    # each value is looked at in its own corner of the image: there may be thousands
    for value, (down, across) in zip(found.tolist(), ndimage.find_objects(numbers), strict=True):
        kind = value // 1000 if how == "instances" and value >= 1000 and classes is not None else value
        index = classes.get(kind) if classes is not None else (None if value in _BACKGROUND else 0)
        if index is None:
            continue
        regions = (values[down, across] == value).astype(np.int32)
        if how == "components":
            ndimage.label(regions.copy(), np.ones((3, 3)), regions)
        pixels = np.bincount(regions.ravel())
        for number, (y, x) in enumerate(ndimage.find_objects(regions), 1):
            if pixels[number] >= min_pixels:
                box = (across.start + x.start, down.start + y.start, across.start + x.stop, down.start + y.stop)
                rows.append((*map(float, box), float(index), 0.0, float(pixels[number])))
    return rows
