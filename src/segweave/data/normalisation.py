"""The mean and standard deviation of every band over a training set, image by image, so that none is kept.

The moments of each image, in float64, are merged into those of the images before it by the pairwise update of T. F.
Chan, G. H. Golub & R. J. LeVeque, "Algorithms for computing the sample variance" (1983), The American Statistician 37,
equations 2.1. Unlike sums of squares it loses no digits where the mean is large beside the deviation, as in kelvins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from segweave.data.dataset import Dataset
from segweave.errors import DataError, UnreadableError

_BLOCK = 2**22
"""Values that are float64 at a time."""
_ROUNDING = 1e-14
"""Deviation relative to the mean below which a band is constant."""


@dataclass(frozen=True)
class Statistics:
    """By which images in [0, 1], or floats in their files' own range, are normalised.

    Args:
        mean, std: per band, over all pixels; the deviation divides by their number and is 1 for a constant band.
        images: how many were read.
        of: how many there are.
    """

    mean: Sequence[float]
    std: Sequence[float]
    images: int
    of: int

    def __str__(self) -> str:
        every = f"all {self.of}" if self.images == self.of else f"{self.images} of {self.of}"
        bands = f"{len(self.mean)} band{'s' if len(self.mean) > 1 else ''}"
        return f"normalisation: mean and deviation of {bands} over {every} training images"


class Moments:
    """The count, mean and sum of squared deviations of each band of all images so far; everything is float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self.squares = np.zeros(0)

    def update(self, image: Shaped[Tensor, "C H W"]) -> None:
        """Adds an image of uint8, uint16 (both as shares of their type's range) or float32."""
        bands = image.flatten(1).numpy()
        top = {"uint8": 255.0, "uint16": 65535.0}.get(bands.dtype.name, 1.0)
        for start in range(0, bands.shape[1], block := max(1, _BLOCK // len(bands))):
            values = bands[:, start : start + block].astype(np.float64)
            mean = values.mean(1)
            squares = np.square(values - mean[:, None]).sum(1)
            self._merge(values.shape[1], mean / top, squares / top**2)

    def _merge(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        if self.count == 0:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, apart = self.count + count, mean - self.mean
        self.mean = self.mean + apart * (count / total)
        self.squares = self.squares + squares + apart**2 * (self.count * count / total)
        self.count = total

    def std(self) -> np.ndarray:
        """Per band, 1 where all values are equal up to the rounding of their mean."""
        deviation = np.sqrt(self.squares / self.count)
        return np.where(deviation > _ROUNDING * np.abs(self.mean), deviation, 1.0)


def measure(
    dataset: Dataset, limit: int | None = None, track: Callable[[Sequence[int]], Iterable[int]] = iter
) -> Statistics:
    """Statistics over the images as they are read, without augmentation, each counted by its pixels.

    Images that cannot be read are left out, as training leaves them out.

    Args:
        limit: at most so many images, spread evenly over the set.
        track: wraps the places that are read, such as in a progress bar.

    Raises:
        DataError: an image of another type or number of bands than the first, naming both; values that are not finite;
            or no image that can be read.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    moments, first = Moments(), ""
    kind: tuple[int, torch.dtype] | None = None
    read = 0
    for place in track([len(dataset) * k // count for k in range(count)]):
        try:
            image = dataset.image(place)
        except UnreadableError:
            continue
        except DataError as error:
            raise DataError(f"{error}{f' Another image, {first}, has {_told(kind)}.' if kind else ''}") from None
        name, found = str(dataset.file(place) or dataset.ids[place]), (len(image), image.dtype)
        if kind is None:
            kind, first = found, name
        if found != kind:
            raise DataError(f"{name}: found {_told(found)}; expected {_told(kind)}, as {first} has")
        if image.is_floating_point() and not image.isfinite().all():
            raise DataError(f"{name}: found values that are not finite; expected none: data.bands has them filled")
        moments.update(image)
        read += 1
    if kind is None:
        raise DataError(f"normalisation: none of {count} training images can be read; `segweave check` says why")
    return Statistics(moments.mean.tolist(), moments.std().tolist(), read, len(dataset))


def _told(kind: tuple[int, torch.dtype]) -> str:
    return f"{kind[0]} band{'s' if kind[0] > 1 else ''} of {str(kind[1]).removeprefix('torch.')}"
