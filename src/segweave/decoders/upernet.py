"""UPerNet (Xiao et al. 2018, arXiv 1807.10221, section 3.1): a feature pyramid that starts from pooled context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from segweave.decoders.decoder import Decoder, require
from segweave.decoders.levels import apart, enlarge, from_stride


class UPerNet(Decoder):
    """Pools the coarsest level over parts of the image, adds it top-down, and fuses all levels by a convolution.

    Its pyramid is the pooled level and the convolved sums.

    Args:
        channels: of the encoder's levels, finest first.
        strides: of the same levels, in pixels, ascending or equal.
        width: channels of the pyramid and of the map (512 in the paper; fusing costs with the square of it).
        bins: parts of the image each way over which the coarsest level is averaged.
        dropout: probability of dropping a whole channel of the map while training.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: int = 128,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require(width >= 1, "width", width, "1 or more")
        require(len(bins) > 0 and min(bins) >= 1, "bins", list(bins), "at least one, each 1 or more")
        require(0 <= dropout < 1, "dropout", dropout, "0 or more, below 1")
        self.levels = from_stride(strides)
        *finer, coarsest = [channels[i] for i in self.levels]
        self.context = _PyramidPooling(coarsest, width, bins)
        self.lateral = nn.ModuleList(Conv2dNormActivation(c, width, 1, inplace=False) for c in finer)
        self.smooth = nn.ModuleList(Conv2dNormActivation(width, width, 3, inplace=False) for _ in finer)
        self.mix = Conv2dNormActivation(len(self.levels) * width, width, 3, inplace=False)
        self.dropout = nn.Dropout2d(dropout)
        self.pyramid_channels, self.pyramid_strides = [width] * len(self.levels), [strides[i] for i in self.levels]
        self.channels, self.stride = width, self.pyramid_strides[0]

    def pyramid(self, levels: Sequence[Tensor]) -> list[Tensor]:
        *finer, coarsest = [levels[i] for i in self.levels]
        total = self.context(coarsest)
        merged = [total]
        for lateral, smooth, level in reversed(list(zip(self.lateral, self.smooth, finer, strict=True))):
            side = lateral(level)
            total = side + enlarge(total, side)
            merged.insert(0, smooth(total))
        return apart(merged)

    def fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        return self.dropout(self.mix(torch.cat([enlarge(level, pyramid[0]) for level in pyramid], dim=1)))


class _PyramidPooling(nn.Module):
    """The pyramid pooling module of PSPNet (Zhao et al. 2017, arXiv 1612.01105, section 3.2).

    What is averaged over the whole image is not normalised: its single position would leave nothing of a batch of one
    image, and little of two.
    """

    def __init__(self, channels: int, width: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.parts = nn.ModuleList(
            Conv2dNormActivation(channels, width, 1, norm_layer=nn.BatchNorm2d if count > 1 else None, inplace=False)
            for count in self.bins
        )
        self.project = Conv2dNormActivation(channels + len(self.bins) * width, width, 3, inplace=False)

    def forward(self, level: Tensor) -> Tensor:
        pooled = [part(_average(level, count)) for part, count in zip(self.parts, self.bins, strict=True)]
        return self.project(torch.cat([level, *(enlarge(part, level) for part in pooled)], dim=1))


def _average(level: Tensor, bins: int) -> Tensor:
    """[B, C, h, w] to [B, C, bins, bins] as `adaptive_avg_pool2d` does, in operations that ONNX has for any size."""
    rows, columns = (_weights(size, bins, level) for size in level.shape[-2:])
    return rows @ level @ columns.T


def _weights(size: int | torch.SymInt, bins: int, like: Tensor) -> Tensor:
    """[bins, size]: each position's share in the average of each bin; bins overlap where the size is no multiple."""
    positions, first = torch.arange(size, device=like.device), torch.arange(bins, device=like.device)[:, None]
    begin, end = first * size // bins, ((first + 1) * size + bins - 1) // bins
    inside = ((positions >= begin) & (positions < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
