"""The images' part of augmentation, for a whole batch at once on the device that trains.

The workers cut windows out of images and leave their pixels as they are; the device does what `Change.image` does, with
the same whole numbers and factors. Resizing is separable: two products with a matrix per image, columns first, then
rows. Flip and padding are in these matrices. Nothing is read back from the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64, Shaped
from torch import Tensor

from segweave.batch import Batch, Labelled
from segweave.data.augment import GREY, Change, is_photograph, recolour, to_float


@dataclass(frozen=True)
class Windows:
    """Windows of images of one type, and what each of them becomes.

    Args:
        pixels: as in the files, each window in the upper left corner of the largest height and width, then zeros.
        extents: height and width of each window, then those that it is resized to.
        flips: which are flipped.
        factors: of brightness, contrast and saturation; None leaves the colours.
        size: height and width of the results.
    """

    pixels: Shaped[Tensor, "b C H W"]
    extents: Int64[Tensor, "b 4"]
    flips: Bool[Tensor, " b"]
    factors: Float32[Tensor, "b 3"] | None
    size: tuple[int, int]

    @classmethod
    def of(cls, windows: Sequence[Tensor], changes: Sequence[Change]) -> Windows:
        """Of windows [C, h, w] of one type and number of bands, whose results have one size."""
        first = windows[0]
        height, width = (max(window.shape[axis] for window in windows) for axis in (1, 2))
        # bands innermost where the decoder left them so: rows are copied whole, and the device brings them in order
        layout = torch.channels_last if first.stride(0) == 1 else torch.contiguous_format
        pixels = torch.empty((len(windows), len(first), height, width), dtype=first.dtype, memory_format=layout).zero_()
        for row, window in zip(pixels, windows, strict=True):
            row[:, : window.shape[1], : window.shape[2]] = window
        factors = [change.factors for change in changes if change.factors is not None]
        return cls(
            pixels,
            torch.tensor([[*change.place[2:], *change.inner] for change in changes]),
            torch.tensor([change.flip for change in changes]),
            torch.tensor(factors) if factors else None,
            changes[0].size,
        )

    def pin_memory(self) -> Windows:
        pixels, extents, flips = (part.pin_memory() for part in (self.pixels, self.extents, self.flips))
        return Windows(pixels, extents, flips, None if self.factors is None else self.factors.pin_memory(), self.size)

    def images(self, device: torch.device | str) -> Float32[Tensor, "b C height width"]:
        """What they become, made on a device, as `to_float` leaves images."""
        ratios = (self.extents[:, :2] / self.extents[:, 2:]).amax(0).clamp(min=1).tolist()
        taps_y, taps_x = (2 * math.ceil(ratio) + 1 for ratio in ratios)
        pixels, extents, flips = (
            part.to(device, non_blocking=True) for part in (self.pixels, self.extents, self.flips)
        )
        window_h, window_w, inner_h, inner_w = extents.unbind(1)
        whole = pixels.dtype == torch.uint8
        rows, columns = (torch.arange(length, device=device).expand(len(pixels), -1) for length in self.size)
        columns = torch.where(flips[:, None], self.size[1] - 1 - columns, columns)
        down = _resizing(rows, window_h, inner_h, pixels.shape[2], taps_y, whole)
        across = _resizing(columns, window_w, inner_w, pixels.shape[3], taps_x, whole)
        picture = pixels.float() if whole else to_float(pixels)
        picture = _rounded(torch.einsum("bchw,bxw->bchx", picture, across), whole)
        picture = _rounded(torch.einsum("bchx,byh->bcyx", picture, down), whole)
        if is_photograph(pixels):
            fill: Tensor | float = float(GREY)
        else:
            # sums of rows of whole numbers are exact in float32; outside of the inner part all is zero
            means = picture.sum(-1).double().sum(-1) / (inner_h * inner_w)[:, None]
            fill = means.float()[..., None, None]
            fill = fill.floor() if whole else fill
        inside = (rows < inner_h[:, None])[:, None, :, None] & (columns < inner_w[:, None])[:, None, None]
        picture = torch.where(inside, picture, fill)
        if self.factors is not None:
            picture = recolour(picture, self.factors.to(device, non_blocking=True), whole)
        return picture / 255 if whole else picture


def _resizing(
    places: Int64[Tensor, "b n"],
    window: Int64[Tensor, " b"],
    inner: Int64[Tensor, " b"],
    source: int,
    taps: int,
    whole: bool,
) -> Float32[Tensor, "b n {source}"]:
    """Matrices of bilinear resizing with antialiasing, by the formulas of torch's `interpolate`.

    Args:
        places: row or column of the resized window that each row of a matrix makes; those beyond `inner` are zero.
        window: length of each window, from the first of the `source` values on.
        inner: the length that it is resized to.
        taps: how many values weigh in one, at most.
        whole: rounds the weights to those of torch's kernel for uint8, which calculates with whole numbers of 16 bits.
            Their products with uint8 and the sums of these are exact in float32, to reductions of 4 at least.
    """
    scale = (window.double() / inner)[:, None]
    reach = scale.clamp(min=1)
    centre = (places + 0.5) * scale
    first = (centre - reach + 0.5).floor().clamp(0, source).long()
    index = first[..., None] + torch.arange(taps, device=places.device)
    weights = (1 - (index + 0.5 - centre[..., None]).abs() / reach[..., None]).clamp(min=0)
    weights = torch.where(index < window[:, None, None], weights, 0)
    weights = torch.where((places < inner[:, None])[..., None], weights / weights.sum(-1, keepdim=True), 0)
    if whole:
        steps = ((32767.5 / weights.amax((1, 2), keepdim=True)).log2().ceil() - 1).exp2()
        weights = (weights * steps + 0.5).floor() / steps
    matrices = torch.zeros(*places.shape, source + taps, device=places.device)
    return matrices.scatter_(2, index, weights.float())[..., :source]


def _rounded(picture: Tensor, whole: bool) -> Tensor:
    return picture.add_(0.5).floor_() if whole else picture


@dataclass(frozen=True)
class Pending:
    """A batch whose images are still to be made.

    Args:
        ids: as those of `Batch`.
        parts: the windows of the images, by their type.
        order: where each image of the batch is among those of all parts.
        targets: as those of `Batch`.
    """

    ids: Sequence[str]
    parts: Sequence[Windows]
    order: Int64[Tensor, " B"]
    targets: Mapping[str, Labelled]

    @classmethod
    def of(
        cls, ids: Sequence[str], windows: Sequence[Tensor], changes: Sequence[Change], targets: Mapping[str, Labelled]
    ) -> Pending:
        by_type: dict[torch.dtype, list[int]] = {}
        for row, window in enumerate(windows):
            by_type.setdefault(window.dtype, []).append(row)
        parts = [Windows.of([windows[r] for r in rows], [changes[r] for r in rows]) for rows in by_type.values()]
        return cls(ids, parts, torch.tensor([row for rows in by_type.values() for row in rows]).argsort(), targets)

    def pin_memory(self) -> Pending:
        """Called by torch's loader; lets the copy to the device overlap with computation."""
        targets = {name: labelled.pin_memory() for name, labelled in self.targets.items()}
        return Pending(self.ids, [part.pin_memory() for part in self.parts], self.order.pin_memory(), targets)

    def made(self, device: torch.device | str) -> Batch:
        """The batch, with its images on a device and its targets where they are."""
        images = [part.images(device) for part in self.parts]
        order = self.order.to(device, non_blocking=True)
        return Batch(self.ids, torch.cat(images)[order] if len(images) > 1 else images[0], self.targets)
