"""What an encoder is: images to a pyramid of maps with declared channels and strides."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from segweave.backbones.weights import Matched
from segweave.errors import ConfigError


class Backbone(nn.Module, ABC):
    """A pyramid whose levels have exactly the declared channels and strides.

    Attributes:
        channels, strides, names: of the levels, finest first.
        size_multiple: (height, width) in pixels; images must have whole multiples of them.
        mean, std: per band, of images in [0, 1], by which the network normalises what it hands over.
        matched: the report on a weights file; None without one.
    """

    channels: list[int]
    strides: list[int]
    names: list[str]
    size_multiple: tuple[int, int]
    mean: list[float]
    std: list[float]
    matched: Matched | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, C, H, W], of a `padded` size, to levels [B, C_i, H / s_i, W / s_i], finest first."""

    @property
    def last(self) -> int:
        """Index of the level that `encoder` names: the encoder's own last one."""
        return len(self.names) - 1

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size to which an image of this size must be padded, in pixels.

        It is at least two positions of the coarsest level each way: batch normalisation in training cannot take the
        single one that a small image, alone in its batch, would have there.
        """
        least = 2 * max(self.strides)
        sizes = [math.ceil(least / m) * m for m in self.size_multiple]
        rounded = [size + -size % m for size, m in zip((height, width), self.size_multiple, strict=True)]
        # sym_max: an exported network keeps a free image size through it
        tall, wide = (torch.sym_max(size, least) for size, least in zip(rounded, sizes, strict=True))
        return tall, wide  # pyright: ignore[reportReturnType]

    def level(self, name: str) -> int:
        """Index of a level by `encoder` (its own last one), `stride16` or the level's name. Raises ConfigError."""
        if name == "encoder":
            return self.last
        if name in self.names:
            return len(self.names) - 1 - self.names[::-1].index(name)
        strides = [f"stride{stride}" for stride in self.strides]
        if name in strides:
            return len(strides) - 1 - strides[::-1].index(name)
        known = ["decoder", "encoder", *dict.fromkeys(strides), *dict.fromkeys(self.names)]
        raise ConfigError(f"at: {name!r} is no level of this encoder; expected one of {', '.join(known)}")
