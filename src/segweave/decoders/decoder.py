"""What a decoder is: an encoder's levels to a pyramid, and the pyramid to one map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segweave.errors import ConfigError


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
        """The encoder's levels [B, C_i, H/s_i, W/s_i], finest first, to the tensors that `fuse` reads, finest first.

        None of them is computed from another: gradients are taken at all of them together.
        """

    @abstractmethod
    def fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The pyramid to one map [B, channels, H/stride, W/stride]."""

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Both steps."""
        return self.fuse(self.pyramid(levels))

    def fusing(self, channels: Sequence[int], strides: Sequence[int]) -> list[nn.Parameter]:
        """The parameters that only `fuse` uses: those that no gradient of the pyramid reaches, found by trying it.

        Args:
            channels, strides: of the encoder's levels, as they were given to the constructor.
        """
        training = self.training
        sizes = [max(1, 2 * max(strides) // stride) for stride in strides]
        first = next(self.parameters(), torch.zeros(0))
        levels = [first.new_zeros(1, c, size, size) for c, size in zip(channels, sizes, strict=True)]
        parameters = [p for p in self.parameters() if p.requires_grad]
        with torch.enable_grad():
            total = torch.stack([level.sum() for level in self.eval().pyramid(levels)]).sum()
            reached = (
                torch.autograd.grad(total, parameters, allow_unused=True)
                if total.requires_grad
                else [None] * len(parameters)
            )
        self.train(training)
        return [p for p, gradient in zip(parameters, reached, strict=True) if gradient is None]


def require(holds: bool, option: str, found: object, expected: str) -> None:
    """Raises ConfigError about an option's value unless it holds."""
    if not holds:
        raise ConfigError(f"{option}: found {found}; expected {expected}")
