"""Distance maps: how far a pixel is from what is around its object."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from segweave.data.derived.derivation import UNLABELLED, Derivation, Source
from segweave.errors import ConfigError
from segweave.tasks.depth import Depth
from segweave.tasks.task import Task

_CORNERS = np.ones((3, 3))


class Distance(Derivation):
    """Of each pixel of an object or region the distance to the nearest pixel that is not of it; for `depth`.

    The distance is Euclidean, from pixel centre to pixel centre, so that it is 1 along a straight boundary and never
    less. It is not known, and not labelled, where a pixel that nobody labelled is nearer than all labelled pixels of
    other ids, nor where there is no other id; the image's edge is no boundary. Background is not labelled. The task
    needs `rescale: false`, and a `min_depth` and `max_depth` that hold what is to be learnt: values outside are not
    labels.

    Args:
        unit: `share` of the largest distance within the same object (of classes: the same region, connected by sides or
            corners), above 0 and at most 1, which no scaling of the image changes; or `pixels`, for images that are
            never scaled (no `data.size`, `augment.scale: null`).
        background: an id of classes that is no object; of instances 0 always is none.
    """

    gives = "depth"

    def __init__(
        self,
        task: Task,
        source: Source,
        *,
        unit: Literal["share", "pixels"] = "share",
        background: int | None = None,
    ) -> None:
        super().__init__(task, source, "distance")
        if isinstance(task, Depth) and task.rescale:
            raise ConfigError(f"tasks.{task.name}.rescale: found true; a distance in the image is no depth: set false")
        self.unit = unit
        self.background = 0 if source.kind == "instances" else background

    def __call__(self, values: Tensor) -> Tensor:
        ids = values.numpy()
        distances = distance_map(ids)
        if self.background is not None:
            distances[ids == self.background] = 0
        if self.unit == "share":
            distances = shares_of(distances, objects_in(ids, self.source.kind == "instances"))
        return torch.from_numpy(distances)

    @property
    def stated(self) -> str:
        return f"exact, in {'shares of the largest in the object' if self.unit == 'share' else 'pixels of the file'}"


def distance_map(ids: Int32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """The distance to the nearest pixel of another id, in pixels; 0 where it is not known, and for `UNLABELLED`."""
    other, unknown = distances_to(ids, 1)
    # the nearest pixel outside a region lies at most one pixel beyond its box, so a margin of 1 finds it
    return np.where((other <= unknown) & np.isfinite(other), other, 0).astype(np.float32)


def distances_to(
    ids: Int32[np.ndarray, "H W"], margin: int
) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """Of each labelled pixel the distances to the nearest labelled pixel of another id, and to the nearest unlabelled.

    Args:
        ids: 0 and above, or `UNLABELLED`.
        margin: how many pixels round the box of an id's pixels are looked at; longer distances may come out longer, or
            infinite.

    Returns:
        Both in pixels, infinite where there is no such pixel; infinite and 0 for unlabelled ones.
    """
    from scipy import ndimage  # takes a third of a second, and only these labels need it

    other = np.full(ids.shape, np.inf, np.float32)
    unknown = np.where(ids == UNLABELLED, 0, np.inf).astype(np.float32)
    found, numbers = np.unique(ids, return_inverse=True)
    numbers = numbers.reshape(ids.shape) + 1
    for value, (down, across) in zip(found.tolist(), ndimage.find_objects(numbers), strict=True):
        if value == UNLABELLED:
            continue
        rows, columns = (slice(max(0, part.start - margin), part.stop + margin) for part in (down, across))
        part = ids[rows, columns]
        own = part == value
        for target, distances in (((part != UNLABELLED) & ~own, other), (part == UNLABELLED, unknown)):
            if target.any():
                distances[rows, columns][own] = np.asarray(ndimage.distance_transform_edt(~target))[own]
    return other, unknown


def objects_in(ids: Int32[np.ndarray, "H W"], instances: bool) -> Int32[np.ndarray, "H W"]:
    """A number from 1 for every object: an id of instances, or a region of one class (sides and corners connect).

    0 for unlabelled pixels.
    """
    from scipy import ndimage

    found, numbers = np.unique(ids, return_inverse=True)
    numbers = numbers.reshape(ids.shape)
    if instances:
        return np.where(ids == UNLABELLED, 0, numbers + 1).astype(np.int32)
    objects, count = np.zeros(ids.shape, np.int32), 0
    boxes = ndimage.find_objects(numbers + 1)
    for value, box in zip(found.tolist(), boxes, strict=True):
        if value == UNLABELLED:
            continue
        regions, more = ndimage.label(ids[box] == value, _CORNERS)  # pyright: ignore[reportGeneralTypeIssues]
        objects[box][regions > 0] = regions[regions > 0] + count
        count += more
    return objects


def shares_of(distances: Float32[np.ndarray, "H W"], objects: Int32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """Distances divided by the largest of their object; 0 stays 0."""
    largest = np.zeros(int(objects.max()) + 1, np.float32)
    np.maximum.at(largest, objects.ravel(), distances.ravel())
    return np.divide(distances, largest[objects], out=np.zeros_like(distances), where=distances > 0)
