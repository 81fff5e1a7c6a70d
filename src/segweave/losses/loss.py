"""What a loss is: a sum and a count per image, so that batches, accumulation and ranks add up exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

_CACHED = 2**18
"""Elements of an output that a processor's cache holds beside what is computed from them (1 MiB of float32)."""


class Loss(nn.Module, ABC):
    """One named loss, per image, not averaged.

    Positional constructor parameters come from the program; keyword-only ones are options a user writes in YAML. An
    image with nothing labelled has count 0, sum exactly 0 and a zero gradient. Half precision is raised to float32.
    No image changes the sum, the count or the gradient of another.
    """

    @abstractmethod
    def count(self, target: Tensor) -> Float[Tensor, " b"]:
        """What the loss is averaged over, per image; from the target alone."""

    @abstractmethod
    def forward(self, output: Tensor, target: Tensor) -> Float[Tensor, " b"]:
        """The loss summed over what `count` counts, per image; never negative."""


def full(output: Tensor) -> Tensor:
    """At least float32, whatever autocast does."""
    return output if output.dtype == torch.float64 else output.float()


def labelled(target: Integer[Tensor, "*shape"], ignore: int) -> Bool[Tensor, "*shape"]:
    """Where a target of any integer type differs from `ignore`, in its own type: no wider copy is made."""
    limits = torch.iinfo(target.dtype)
    if limits.min <= ignore <= limits.max:
        return target != ignore
    # compared as it is, -1 would be wrapped to 255 of a uint8 target
    return torch.ones_like(target, dtype=torch.bool)


def per_image(mask: Bool[Tensor, " b *rest"]) -> Float[Tensor, " b"]:
    """How many entries of each image are true; exact up to 2^24."""
    return mask[..., None].flatten(1).sum(1, dtype=torch.int32).float()


def labelled_images(known: Bool[Tensor, " b *rest"]) -> Float[Tensor, " b"]:
    """1 for every image with something labelled, else 0."""
    return known.flatten(1).any(1).float()


def pieces(
    output: Float[Tensor, "b C *spatial"], target: Integer[Tensor, " b *spatial"]
) -> Iterator[tuple[Float[Tensor, "p C *spatial"], Integer[Tensor, " p *spatial"]]]:
    """The batch in parts of whole images: as many as the cache holds on a CPU, all of them elsewhere.

    A loss passes over its output some ten times, forward and backward; between one pass and the next a whole batch
    has left the cache, an image or two have not.
    """
    images = len(output)
    if output.device.type != "cpu" or images == 0:
        return iter([(output, target)])
    size = max(1, _CACHED * images // max(1, output.numel()))
    return zip(output.split(size), target.split(size), strict=True)
