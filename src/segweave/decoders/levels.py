"""What decoders do with levels: which of them they read, how they enlarge them and how they hand them on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def from_stride(strides: Sequence[int], finest: int = 4) -> tuple[int, ...]:
    """Indices of the levels of at least this stride; of the last level where all are finer.

    A level finer than stride 4 costs more than all others together and holds little that is not image noise.
    """
    first = next((i for i, stride in enumerate(strides) if stride >= finest), len(strides) - 1)
    return tuple(range(first, len(strides)))


def enlarge(level: Tensor, like: Tensor) -> Tensor:
    """[B, C, h, w] to [B, C, H, W] of another tensor, bilinearly between the centres of positions."""
    return nn.functional.interpolate(level, like.shape[-2:], mode="bilinear", align_corners=False)


def apart(pyramid: Sequence[Tensor]) -> list[Tensor]:
    """The same values as tensors of which none is computed from another, where the levels were made one of another.

    Otherwise a gradient taken at several of them would count what flows from one to the next twice.
    """
    return [level.view_as(level) for level in pyramid]
