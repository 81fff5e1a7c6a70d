"""Random changes to an image and all its annotations together, on torchvision's transforms v2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import TVTensor

from segweave.batch import Sample
from segweave.catalogue import check, signature_options
from segweave.data.rare_crops import RareCrops
from segweave.errors import ConfigError
from segweave.tasks.task import Task

GREY = 114
"""Fills the padding of photographs."""

_RARE = signature_options("segweave.data.rare_crops:RareCrops")[0]


class Augment:
    """Random scale and crop, flip and colour, the same for the image and every annotation that has a place in it.

    Args:
        size: height and width that images are brought to before the random scale; None keeps their own.
        scale: range of the random scale, drawn log-uniformly; None for none.
        crop: height and width of the result; by default `size`. Smaller pictures are padded: with grey where they are
            8-bit RGB, else with the mean of each band, because a fixed value may be far from all that occurs.
        flip: probability of a left-right flip.
        colour: largest relative change of brightness, contrast and saturation; of three bands of integers only.
        rare: lays crops where rare classes are: the options of `RareCrops`, such as `{task: semantic, chance: 0.5}`;
            null for any place. It matters where the window is smaller than the image, by `crop` or by a scale above 1.
        device: whether images are resized, padded, flipped and recoloured on the device that trains, a batch at a time,
            instead of by the workers. For a GPU with few CPU cores; the pixels are the same up to rounding.

    Raises:
        ConfigError: values out of range.
    """

    def __init__(
        self,
        size: Sequence[int] | None,
        *,
        scale: Sequence[float] | None = (0.75, 1.5),
        crop: Sequence[int] | None = None,
        flip: float = 0.5,
        colour: float = 0.25,
        rare: Mapping[str, Any] | None = None,
        device: bool = False,
    ) -> None:
        if scale is not None and (len(scale) != 2 or not 0 < scale[0] <= scale[1]):
            raise ConfigError(f"data.augment.scale: found {scale}; expected [low, high] with 0 < low <= high")
        if crop is not None and (len(crop) != 2 or min(crop) < 1):
            raise ConfigError(f"data.augment.crop: found {list(crop)}; expected [height, width], both above 0")
        if not 0 <= flip <= 1 or not 0 <= colour < 1:
            raise ConfigError(f"data.augment: found flip {flip}, colour {colour}; expected 0 to 1, and colour below 1")
        self.size = size
        self.scale = scale
        self.crop = crop
        self.flip = flip
        self.colour = colour
        self.rare = None if rare is None else RareCrops(**check(rare, _RARE, "data.augment.rare"))
        self.device = device

    def check(self, tasks: Mapping[str, Task]) -> None:
        """Raises ConfigError for tasks or classes named in it that there are not."""
        if self.rare is not None:
            self.rare.check(tasks)

    def __call__(self, sample: Sample, tasks: Mapping[str, Task], generator: torch.Generator) -> Sample:
        """Draws every random number from `generator`."""
        change = self.draw(sample, tasks, generator)
        return Sample(sample.id, change.image(sample.image), change.annotations(sample, tasks))

    def cut(self, sample: Sample, tasks: Mapping[str, Task], generator: torch.Generator) -> tuple[Sample, Change]:
        """The same change with the image's part left to be made: the sample has the window of it, as in the file."""
        change = self.draw(sample, tasks, generator)
        return Sample(sample.id, change.window(sample.image), change.annotations(sample, tasks)), change

    def draw(self, sample: Sample, tasks: Mapping[str, Task], generator: torch.Generator) -> Change:
        """What is to become of a sample; every random number is drawn from `generator`."""
        chance = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        height, width = sample.image.shape[-2:]
        target_h, target_w = self.size or (height, width)
        low, high = self.scale or (1.0, 1.0)
        factor = low * (high / low) ** chance[0]
        crop_h, crop_w = self.crop or (target_h, target_w)
        # The window is cut from the file's own pixels and resized once; target and annotation share its integers.
        window_h = min(height, max(1, round(crop_h * height / (target_h * factor))))
        window_w = min(width, max(1, round(crop_w * width / (target_w * factor))))
        inner_h = min(crop_h, max(1, round(window_h * factor * target_h / height)))
        inner_w = min(crop_w, max(1, round(window_w * factor * target_w / width)))
        row, column = (self.rare.spot(sample, tasks, generator) if self.rare else None) or (None, None)
        top, left = _start(chance[1], window_h, height, row), _start(chance[2], window_w, width, column)
        # colours are cut to the range of the type, and floats have none
        recoloured = self.colour > 0 and len(sample.image) == 3 and not sample.image.is_floating_point()
        brightness, contrast, saturation = (1 + self.colour * (2 * c - 1) for c in chance[4:])
        return Change(
            (top, left, window_h, window_w),
            (inner_h, inner_w),
            (crop_h, crop_w),
            chance[3] < self.flip,
            # whole pixels leave a zoom that differs a little from the drawn one, and from one axis to the other
            math.sqrt(inner_h * height / (window_h * target_h) * inner_w * width / (window_w * target_w)),
            (brightness, contrast, saturation) if recoloured else None,
        )


@dataclass(frozen=True)
class Change:
    """What augmentation makes of one sample: a window is cut out, resized, padded, flipped and recoloured.

    Args:
        place: top, left, height and width of the window, within the image.
        inner: height and width that it is resized to.
        size: height and width of the result; what lies right of the inner part and below it is filled.
        flip: whether left and right change places, after the padding.
        zoom: of the window, for annotations that depend on it.
        factors: of brightness, contrast and saturation; None leaves the colours.
    """

    place: tuple[int, int, int, int]
    inner: tuple[int, int]
    size: tuple[int, int]
    flip: bool
    zoom: float
    factors: tuple[float, float, float] | None

    def window(self, image: Tensor) -> Tensor:
        """The window of an image, a view of it."""
        top, left, height, width = self.place
        return image[..., top : top + height, left : left + width]

    def image(self, image: Tensor) -> Tensor:
        """An image [C, H, W] of any type changed, to float32 as `to_float` does."""
        grey = is_photograph(image)
        if image.dtype == torch.uint16:
            # it has no resize kernel; floats in [0, 1] hold it exactly enough for what interpolation keeps of it.
            # Of the window alone, because the rest of a sample on a mapped file need not be read
            values = torch.empty_like(image, dtype=torch.float32)
            self.window(values).copy_(to_float(self.window(image)))
            image = values
        image = functional.resize(self.window(image), list(self.inner), antialias=True)
        if self.inner != self.size:
            means = (image.sum((1, 2)).double() / image[0].numel()).float()
            image = functional.pad(image, self._padding, fill=GREY if grey else means.tolist())
        if self.flip:
            image = functional.horizontal_flip(image)
        if self.factors is None:
            return to_float(image)
        whole = image.dtype == torch.uint8
        changed = image.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        changed = recolour(changed, torch.tensor(self.factors), whole)
        return changed.div_(255) if whole else changed

    def annotations(self, sample: Sample, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
        """Those of a sample, changed as its image where they have a place in it."""
        return {
            name: self._moved(annotation, tasks[name])
            if tasks[name].dense or isinstance(annotation, TVTensor)
            else annotation
            for name, annotation in sample.annotations.items()
        }

    def _moved(self, annotation: Tensor, task: Task) -> Tensor:
        annotation = functional.resized_crop(
            annotation, *self.place, list(self.inner), interpolation=InterpolationMode.NEAREST
        )
        if self.inner != self.size:
            annotation = functional.pad(annotation, self._padding, fill=task.fill)
        if self.flip:
            annotation = functional.horizontal_flip(annotation)
        return task.zoom(annotation, self.zoom) if self.zoom != 1 else annotation

    @property
    def _padding(self) -> list[int]:
        return [0, 0, self.size[1] - self.inner[1], self.size[0] - self.inner[0]]


def is_photograph(image: Tensor) -> bool:
    """Whether an image [..., C, H, W] is 8-bit RGB, which is padded with grey."""
    return image.dtype == torch.uint8 and image.shape[-3] == 3


def recolour(
    image: Float32[Tensor, "*b 3 H W"], factors: Float32[Tensor, "*b 3"], whole: bool
) -> Float32[Tensor, "*b 3 H W"]:
    """Changes brightness, contrast and saturation in place, by the formulas of torchvision's operators.

    Every operation rounds alike on all devices, so that whole numbers come out the same on a GPU as on a CPU.

    Args:
        image: whole numbers from 0 to 255, or floats in [0, 1].
        factors: of brightness, contrast and saturation.
        whole: whether they are whole numbers, which are rounded down after each of the three.
    """
    limit = 255.0 if whole else 1.0
    brightness, contrast, saturation = factors[..., None, None, None].unbind(-4)

    def cut(values: Tensor) -> Tensor:
        return values.floor_() if whole else values

    def grey() -> Tensor:
        red, green, blue = image.unbind(-3)
        return cut((0.2989 * red).add_(0.587 * green).add_(0.114 * blue)).unsqueeze(-3)

    cut(image.mul_(brightness).clamp_(max=limit))
    shade = grey()
    # sums of rows of whole numbers are exact in float32, and those of all rows in float64
    mean = (shade.sum(-1).double().sum(-1) / shade[0].numel()).float()[..., None, None]
    cut(image.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, limit))
    shade = grey()
    return cut(image.mul_(saturation).add_(shade.mul_(1 - saturation)).clamp_(0, limit))


def _start(chance: float, window: int, whole: int, place: int | None) -> int:
    """Where a window begins that lies in the whole and holds a place, where one is given."""
    low, high = 0, whole - window
    if place is not None:
        low, high = max(low, place - window + 1), min(high, place)
    return low + int(chance * (high - low + 1))


class Resize:
    """The image alone to a fixed size; annotations stay as the file has them, for evaluation at their own size.

    Args:
        size: height and width; None keeps the image's own.
    """

    def __init__(self, size: Sequence[int] | None) -> None:
        self.size = size

    def __call__(self, image: Tensor) -> Tensor:
        """Image [C, H, W] of any type to float32 [C, h, w], as `to_float` does."""
        if self.size is None or list(image.shape[-2:]) == list(self.size):
            return to_float(image)
        image = image if image.dtype == torch.uint8 else to_float(image)
        return to_float(functional.resize(image, list(self.size), antialias=True))


def to_float(image: Tensor) -> Tensor:
    """uint8 and uint16 to float32 in [0, 1]; floats as they are, in their own range."""
    whole = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(image.dtype)
    return image.float().div_(whole) if whole else image.float()
