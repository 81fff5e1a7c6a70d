"""The types that flow through the house: one image as read, one task's targets, one batch, one loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One image as read from disk, with the annotations that exist for it.

    Args:
        id: stable name, unique within a data set: predictions and metrics are keyed by it.
        image: uint8, uint16 or float32 of shape [C, H, W]; integers span the whole range of their
            type, floats their own.
        annotations: by task name; a missing key means that the image carries no label for that task.
    """

    id: str
    image: Shaped[Tensor, "C H W"]
    annotations: Mapping[str, Tensor]


@dataclass(frozen=True)
class Labelled:
    """The targets of ONE task inside a batch.

    Args:
        rows: which images of the batch carry this label, ascending.
        value: [b, ...], one target per entry of `rows`; unlabelled PIXELS hold the task's own ignore value.
    """

    rows: Int64[Tensor, " b"]
    value: Shaped[Tensor, "b ..."]

    def to(self, device: torch.device | str) -> Labelled:
        return Labelled(self.rows.to(device, non_blocking=True), self.value.to(device, non_blocking=True))

    def pin_memory(self) -> Labelled:
        return Labelled(self.rows.pin_memory(), self.value.pin_memory())


@dataclass(frozen=True)
class Batch:
    """Images that go through the network together; the model normalises them itself.

    `images` are in [0, 1], or in the files' own range where these hold floats.
    """

    ids: Sequence[str]
    images: Float[Tensor, "B C H W"]
    targets: Mapping[str, Labelled]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        targets = {name: labelled.to(device) for name, labelled in self.targets.items()}
        return Batch(self.ids, self.images.to(device, non_blocking=True), targets)

    def pin_memory(self) -> Batch:
        """Called by torch's loader; lets `to` overlap the copy with computation."""
        targets = {name: labelled.pin_memory() for name, labelled in self.targets.items()}
        return Batch(self.ids, self.images.pin_memory(), targets)


@dataclass(frozen=True)
class Terms:
    """One named loss, per image, not yet averaged: the loss of a batch is `sum.sum() / count.sum()`.

    Args:
        sum: the loss summed over what `count` counts.
        count: pixels, positives, class-weight mass, or 1. Depends on the target only, never on the output.
    """

    sum: Float[Tensor, " b"]
    count: Float[Tensor, " b"]

    def per_image(self) -> Terms:
        """The same loss averaged within each image first, so that every labelled image weighs the same."""
        labelled = self.count > 0
        mean = self.sum / torch.where(labelled, self.count, torch.ones_like(self.count))
        return Terms(mean, labelled.to(self.count.dtype))
