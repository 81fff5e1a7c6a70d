"""What a decoder is: an encoder's levels to a pyramid, and the pyramid to one map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Decoder(nn.Module, ABC):
    """Two steps: `pyramid` is what detection reads, `fuse` makes of it the one map that dense heads read.

    Positional constructor parameters are the channels and strides of the encoder's levels, finest first; keyword-only
    ones are options a user writes in YAML. Every parameter belongs to one of the two steps.

    Attributes:
        levels: indices of the encoder's levels that are read, ascending.
        channels, stride: of the map.
        pyramid_channels, pyramid_strides: of the pyramid, finest first.
    """

    levels: tuple[int, ...]
    channels: int
    stride: int
    pyramid_channels: list[int]
    pyramid_strides: list[int]

    @abstractmethod
    def pyramid(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's levels [B, C_i, H/s_i, W/s_i], finest first, to the tensors that `fuse` reads, finest first."""

    @abstractmethod
    def fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The pyramid to one map [B, channels, H/stride, W/stride]."""

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Both steps."""
        return self.fuse(self.pyramid(levels))
