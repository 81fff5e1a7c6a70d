"""SegFormer's all-MLP decoder (Xie et al. 2021, arXiv 2105.15203, section 3.2, equation 4).

There the projected levels are enlarged, laid side by side and mixed by a 1 x 1 convolution. That convolution is a sum
over the levels and does not mind whether it comes before or after the enlarging: here every level is mixed at its own
size and the results are summed, which gives the same numbers for a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segweave.decoders.decoder import Decoder, require
from segweave.decoders.levels import enlarge, from_stride


class SegFormer(Decoder):
    """Projects every level linearly and mixes them at the finest one of stride 4 or more; no position sees another.

    Its pyramid is the projected levels. Meant for encoders that see far by themselves, such as transformers; the
    cheapest decoder.

    Args:
        channels: of the encoder's levels, finest first.
        strides: of the same levels, in pixels, ascending or equal.
        width: channels of the projections and of the map (the paper's B0 and B1 have 256, larger ones 768).
        dropout: probability of dropping a whole channel of the map while training.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], *, width: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require(width >= 1, "width", width, "1 or more")
        require(0 <= dropout < 1, "dropout", dropout, "0 or more, below 1")
        self.levels = from_stride(strides)
        self.project = nn.ModuleList(nn.Conv2d(channels[i], width, 1) for i in self.levels)
        self.mix = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in self.levels)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.pyramid_channels, self.pyramid_strides = [width] * len(self.levels), [strides[i] for i in self.levels]
        self.channels, self.stride = width, self.pyramid_strides[0]

    def pyramid(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [project(levels[i]) for project, i in zip(self.project, self.levels, strict=True)]

    def fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        total, *coarser = [mix(level) for mix, level in zip(self.mix, pyramid, strict=True)]
        for level in coarser:
            total = total + enlarge(level, total)
        return self.dropout(self.norm(total).relu())
