"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597, section 2): from the coarsest level up, one skip at a time.

As in segmentation-models-pytorch the map is enlarged by repetition instead of a transposed convolution, convolutions
are padded, and normalised by batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from segweave.decoders.decoder import Decoder, require
from segweave.decoders.levels import apart, from_stride


class UNet(Decoder):
    """Enlarges the coarsest level step by step, and at each joins the encoder's level by two convolutions.

    Its pyramid is what each step gives; the finest of them is the map. A single level has nothing to join and passes
    one step.

    Args:
        channels: of the encoder's levels, finest first.
        strides: of the same levels, in pixels, ascending or equal.
        width: channels of a step of stride 4. The others have more or fewer in proportion to their stride, up to
            8 times as many: 64 gives 32, 64, 128 and 256 at strides 2, 4, 8 and 16.
        finest: stride of the finest level that is read, in pixels. Most encoders have none below 2, and many none
            below 4; the map has this stride or the finest above it.
        dropout: probability of dropping a whole channel of the map while training.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: int = 64,
        finest: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require(width >= 4, "width", width, "4 or more")
        require(finest >= 1, "finest", finest, "1 or more")
        require(0 <= dropout < 1, "dropout", dropout, "0 or more, below 1")
        self.levels = from_stride(strides, finest)
        *skips, coarsest = [channels[i] for i in self.levels]
        self.pyramid_strides = [strides[i] for i in self.levels[:-1] or self.levels]
        self.pyramid_channels = [width * min(stride, 32) // 4 for stride in self.pyramid_strides]
        below = [*self.pyramid_channels[1:], coarsest]
        self.steps = nn.ModuleList(
            nn.Sequential(
                Conv2dNormActivation(wide + skip, out, 3, inplace=False),
                Conv2dNormActivation(out, out, 3, inplace=False),
            )
            for wide, skip, out in zip(below, skips or [0], self.pyramid_channels, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.channels, self.stride = self.pyramid_channels[0], self.pyramid_strides[0]

    def pyramid(self, levels: Sequence[Tensor]) -> list[Tensor]:
        *skips, x = [levels[i] for i in self.levels]
        if not skips:
            return [self.steps[0](x)]
        joined: list[Tensor] = []
        for step, skip in zip(reversed(self.steps), reversed(skips), strict=True):
            x = step(torch.cat([nn.functional.interpolate(x, skip.shape[-2:], mode="nearest"), skip], dim=1))
            joined.insert(0, x)
        return apart(joined)

    def fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        return self.dropout(pyramid[0])
