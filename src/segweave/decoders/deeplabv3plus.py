"""DeepLabV3+ (Chen et al. 2018, arXiv 1802.02611, section 3.1): atrous pooling, refined by a fine level.

Convolutions are separable, in the pooling and after it, as the paper recommends for speed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from segweave.decoders.decoder import Decoder, require
from segweave.decoders.levels import enlarge, from_stride

_RATES, _STRIDE = (6, 12, 18), 16


class DeepLabV3Plus(Decoder):
    """Looks at the coarsest level at several rates at once, and joins the finest level of stride 4 or more to it.

    Its pyramid is the projected fine level and the pooled coarse one; levels between them are not read. A single level
    is pooled and refined by itself.

    The paper's encoder ends at stride 16. That of a ResNet does so with `model.backbone_options: {output_stride: 16}`,
    which costs time and memory; without it the coarsest level has stride 32, and the rates are halved, so that the
    pooling sees the same part of the image.

    Args:
        channels: of the encoder's levels, finest first.
        strides: of the same levels, in pixels, ascending or equal.
        width: channels of the pooling and of the map.
        rates: of the dilated convolutions, in positions of the coarsest level; taken as they are. By default the
            paper's 6, 12 and 18 for stride 16, times 16 / stride for others (12, 24, 36 at 8; 3, 6, 9 at 32).
        low_level_width: channels of the projected fine level.
        dropout: probability of dropping a whole channel of the map while training.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: int = 256,
        rates: Sequence[int] | None = None,
        low_level_width: int = 48,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require(width >= 1, "width", width, "1 or more")
        require(low_level_width >= 1, "low_level_width", low_level_width, "1 or more")
        require(0 <= dropout < 1, "dropout", dropout, "0 or more, below 1")
        usable = from_stride(strides)
        low, high = usable[0], usable[-1]
        self.levels = (low, high) if low != high else (high,)
        rates = [max(1, rate * _STRIDE // strides[high]) for rate in _RATES] if rates is None else rates
        require(len(rates) > 0 and min(rates) >= 1, "rates", list(rates), "at least one, each 1 or more")
        self.pooling = _AtrousPooling(channels[high], width, rates)
        self.low_level = nn.ModuleList(
            Conv2dNormActivation(channels[i], low_level_width, 1, inplace=False) for i in self.levels[:-1]
        )
        self.pyramid_channels = [low_level_width, width][-len(self.levels) :]
        self.pyramid_strides = [strides[i] for i in self.levels]
        self.refine = nn.Sequential(_separable(sum(self.pyramid_channels), width), _separable(width, width))
        self.dropout = nn.Dropout2d(dropout)
        self.channels, self.stride = width, strides[low]

    def pyramid(self, levels: Sequence[Tensor]) -> list[Tensor]:
        *low, high = [levels[i] for i in self.levels]
        return [*(project(level) for project, level in zip(self.low_level, low, strict=True)), self.pooling(high)]

    def fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        *low, high = pyramid
        return self.dropout(self.refine(torch.cat([enlarge(high, pyramid[0]), *low], dim=1)))


class _AtrousPooling(nn.Module):
    """ASPP (Chen et al. 2017, arXiv 1706.05587, section 3.3): 1 x 1, dilated 3 x 3 and image-wide views side by side.

    The image-wide one is not normalised: its single position would leave nothing of a batch of one image, and little of
    two.
    """

    def __init__(self, channels: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.views = nn.ModuleList(
            [
                Conv2dNormActivation(channels, width, 1, inplace=False),
                *(_separable(channels, width, rate) for rate in rates),
            ]
        )
        self.image = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU())
        self.project = Conv2dNormActivation((2 + len(rates)) * width, width, 1, inplace=False)

    def forward(self, level: Tensor) -> Tensor:
        whole = self.image(level.mean((2, 3), keepdim=True)).expand(-1, -1, *level.shape[-2:])
        return self.project(torch.cat([*(view(level) for view in self.views), whole], dim=1))


def _separable(channels: int, width: int, rate: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate, groups=channels, bias=False)
    return nn.Sequential(depthwise, Conv2dNormActivation(channels, width, 1, inplace=False))
