"""Feature pyramid network with a fusing head (Lin et al. 2017; Kirillov et al. 2019, Panoptic FPN, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork


class FPN(nn.Module):
    """Adds the pyramid top-down at one width and fuses it by sum at its finest level of stride 4 or more.

    Args:
        channels: of the encoder's levels, finest first.
        strides: of the same levels, ascending.
        width: channels of the result.
        dropout: probability of dropping a whole channel of the result while training.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], *, width: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__()
        # a level finer than stride 4 costs more than all others together and holds little that is not image noise
        self.first = next((i for i, stride in enumerate(strides) if stride >= 4), len(strides) - 1)
        used = list(channels)[self.first :]
        self.pyramid = FeaturePyramidNetwork(used, width)
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for _ in used
        )
        self.dropout = nn.Dropout2d(dropout)
        self.channels = width
        self.stride = list(strides)[self.first]

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels [B, C_i, H/s_i, W/s_i], finest first, to one map [B, width, H/s, W/s]."""
        pyramid = self.pyramid({str(i): level for i, level in enumerate(levels[self.first :])})
        maps = [smooth(pyramid[str(i)]) for i, smooth in enumerate(self.smooth)]
        size = maps[0].shape[-2:]
        rest = [nn.functional.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:]]
        return self.dropout(torch.stack([maps[0], *rest]).sum(0) if rest else maps[0])
