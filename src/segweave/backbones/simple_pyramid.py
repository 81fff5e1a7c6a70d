"""The simple feature pyramid of ViTDet (Li et al. 2022, arXiv 2203.16527, section 3), for encoders of one stride."""

from __future__ import annotations

from timm.layers import LayerNorm2d  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn


class SimplePyramid(nn.Module):
    """Makes a pyramid of the last map of a plain encoder: finer levels by transposed convolution, one coarser.

    The 1 x 1 and 3 x 3 convolutions that end each level in the paper are left to the decoder. The map is normalised
    first, because timm hands it on without the encoder's last normalisation.

    Args:
        channels: of the map.
        stride: of the map, in pixels. Finer levels are made while their stride stays whole and at least 4.

    Attributes:
        channels, strides: of the levels, finest first.
        native: index of the level with the map's own resolution.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        finer = [times for times in (2, 1) if stride % 2**times == 0 and stride // 2**times >= 4]
        self.norm = LayerNorm2d(channels)
        self.finer = nn.ModuleList(_enlarge(channels, times) for times in finer)
        self.coarser = nn.MaxPool2d(2)
        self.channels: list[int] = [*(channels // 2**times for times in finer), channels, channels]
        self.strides: list[int] = [*(stride // 2**times for times in finer), stride, 2 * stride]
        self.native = len(finer)

    def forward(self, features: Tensor) -> list[Tensor]:
        """[B, C, h, w] with even h and w to levels [B, C_i, h s / s_i, w s / s_i], finest first."""
        features = self.norm(features)
        return [*(branch(features) for branch in self.finer), features, self.coarser(features)]


def _enlarge(channels: int, times: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for i in range(times):
        if i:
            steps += [LayerNorm2d(channels), nn.GELU()]
        steps.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    return nn.Sequential(*steps)
