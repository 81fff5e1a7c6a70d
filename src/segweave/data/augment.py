"""Random changes to an image and all its annotations together, on torchvision's transforms v2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import TVTensor

from segweave.batch import Sample
from segweave.errors import ConfigError
from segweave.tasks.task import Task


class Augment:
    """Random scale and crop, flip and colour, the same for the image and every annotation that has a place in it.

    Args:
        size: height and width that images are brought to before the random scale; None keeps their own.
        scale: range of the random scale, drawn log-uniformly; None for none.
        crop: height and width of the result; by default `size`. Smaller pictures are padded: with grey where they are
            8-bit RGB, else with the mean of each band, because a fixed value may be far from all that occurs.
        flip: probability of a left-right flip.
        colour: largest relative change of brightness, contrast and saturation; of three bands of integers only.

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

    def __call__(self, sample: Sample, tasks: Mapping[str, Task], generator: torch.Generator) -> Sample:
        """Draws every random number from `generator`."""
        chance = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        height, width = sample.image.shape[-2:]
        target_h, target_w = self.size or (height, width)
        low, high = self.scale or (1.0, 1.0)
        factor = low * (high / low) ** chance[0]
        crop_h, crop_w = self.crop or (target_h, target_w)
        # The window is cut from the file's own pixels and resized once; target and annotation share its integers.
        window_h = min(height, max(1, round(crop_h * height / (target_h * factor))))
        window_w = min(width, max(1, round(crop_w * width / (target_w * factor))))
        out_h = min(crop_h, max(1, round(window_h * factor * target_h / height)))
        out_w = min(crop_w, max(1, round(window_w * factor * target_w / width)))
        top, left = int(chance[1] * (height - window_h + 1)), int(chance[2] * (width - window_w + 1))
        flip = chance[3] < self.flip
        padding = [0, 0, crop_w - out_w, crop_h - out_h]
        # whole pixels leave a zoom that differs a little from the drawn one, and from one axis to the other
        zoom = math.sqrt(out_h * height / (window_h * target_h) * out_w * width / (window_w * target_w))

        def move(value: Tensor, fill: int | float | None, mode: InterpolationMode) -> Tensor:
            value = functional.resized_crop(
                value, top, left, window_h, window_w, [out_h, out_w], interpolation=mode, antialias=True
            )
            if any(padding):
                means = value.float().mean((1, 2)).tolist() if fill is None else fill
                value = functional.pad(value, padding, fill=means)
            return functional.horizontal_flip(value) if flip else value

        # uint16 has no resize kernel; floats in [0, 1] hold it exactly enough for what interpolation keeps of it
        image = sample.image if sample.image.dtype == torch.uint8 else to_float(sample.image)
        photograph = image.dtype == torch.uint8 and len(image) == 3
        image = move(image, 114 if photograph else None, InterpolationMode.BILINEAR)
        # torchvision's colour operators cut floats to [0, 1], which need not be the range of a file's own
        if self.colour and len(image) == 3 and not sample.image.is_floating_point():
            image = self._recolour(image, chance[4:])
        annotations = {}
        for name, annotation in sample.annotations.items():
            if tasks[name].dense or isinstance(annotation, TVTensor):
                annotation = move(annotation, tasks[name].fill, InterpolationMode.NEAREST)
                if zoom != 1:
                    annotation = tasks[name].zoom(annotation, zoom)
            annotations[name] = annotation
        return Sample(sample.id, image, annotations)

    def _recolour(self, image: Tensor, chance: Sequence[float]) -> Tensor:
        brightness, contrast, saturation = (1 + self.colour * (2 * c - 1) for c in chance)
        image = functional.adjust_brightness(image, brightness)
        image = functional.adjust_contrast(image, contrast)
        return functional.adjust_saturation(image, saturation)


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
    return image.float() / whole if whole else image.float()
