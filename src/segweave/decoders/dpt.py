"""DPT (Ranftl et al. 2021, arXiv 2103.13413, section 3): transformer layers reassembled as a pyramid, fused top-down.

The paper takes four layers from different depths of a plain transformer, all of one stride, and makes a pyramid of
strides 4, 8, 16 and 32 of them. To have it so, ask the encoder for those layers as they are:

    model: {backbone: vit_base_patch16_224, backbone_options: {out_indices: [2, 5, 8, 11]}, decoder: dpt}

Without `out_indices` a plain transformer comes with the simple pyramid of its last layer, which is fused as the levels
of a hierarchical encoder are: without reassembling. The readout token is left aside (the paper's `Read_ignore`), and
the last enlarging by 2 is left to the heads, which enlarge to the image's size anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segweave.decoders.decoder import Decoder, require
from segweave.decoders.levels import apart, from_stride


class DPT(Decoder):
    """Brings every level to one width, and fuses them from the coarsest up by residual convolutions.

    Its pyramid is what each fusion gives; the finest of them is the map. Levels of one stride are resampled first: the
    first one to the finest stride, of at least 4, that halving theirs comes to, each further one to twice the stride of
    the one before, and none to more than twice their own. Four of stride 16 become 4, 8, 16 and 32; of stride 14, which
    cannot be halved twice, 7, 14, 28 and 28. A coarser map than the encoder's has its size rounded up.

    Args:
        channels: of the encoder's levels, finest first.
        strides: of the same levels, in pixels, ascending or equal.
        width: channels of the fused maps (256 in the paper).
        batch_norm: normalise in the residual convolutions. The paper does for segmentation and does not for depth.
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
        batch_norm: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require(width >= 1, "width", width, "1 or more")
        require(0 <= dropout < 1, "dropout", dropout, "0 or more, below 1")
        self.levels = from_stride(strides)
        own = [strides[i] for i in self.levels]
        inner = [channels[i] for i in self.levels]
        if len(own) > 1 and len(set(own)) == 1:
            self.pyramid_strides = _spread(own[0], len(own))
            steps = [
                _resample(count, min(count, width * 2**i), own[0], stride)
                for i, (count, stride) in enumerate(zip(inner, self.pyramid_strides, strict=True))
            ]
            inner = [min(count, width * 2**i) for i, count in enumerate(inner)]
        else:
            self.pyramid_strides = own
            steps = [nn.Identity() for _ in own]
        self.reassemble = nn.ModuleList(
            nn.Sequential(step, nn.Conv2d(count, width, 3, padding=1, bias=False))
            for step, count in zip(steps, inner, strict=True)
        )
        self.fusion = nn.ModuleList(_Fusion(width, batch_norm) for _ in own)
        self.dropout = nn.Dropout2d(dropout)
        self.pyramid_channels = [width] * len(own)
        self.channels, self.stride = width, self.pyramid_strides[0]

    def pyramid(self, levels: Sequence[Tensor]) -> list[Tensor]:
        maps = [reassemble(levels[i]) for reassemble, i in zip(self.reassemble, self.levels, strict=True)]
        fused: list[Tensor] = []
        for fusion, level in zip(reversed(self.fusion), reversed(maps), strict=True):
            fused.insert(0, fusion(level, *fused[:1]))
        return apart(fused)

    def fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        return self.dropout(pyramid[0])


def _spread(stride: int, count: int) -> list[int]:
    """Strides to which several levels of one stride are resampled."""
    finest = stride
    while finest % 2 == 0 and finest // 2 >= 4:
        finest //= 2
    return [min(finest * 2**i, 2 * stride) for i in range(count)]


def _resample(channels: int, width: int, stride: int, target: int) -> nn.Sequential:
    """The paper's `Resample`: projection by a 1 x 1 convolution, then a strided one or a transposed one."""
    if target > stride:
        resize = nn.Conv2d(width, width, 3, stride=target // stride, padding=1)
    elif target < stride:
        resize = nn.ConvTranspose2d(width, width, stride // target, stride=stride // target)
    else:
        resize = nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1), resize)


class _Fusion(nn.Module):
    """Figure 1, right: the level, refined, plus the coarser map, refined again and projected.

    The projection stands before the enlarging of the next fusion, not after it: the two can be exchanged, and this
    order does a quarter of the work.
    """

    def __init__(self, width: int, batch_norm: bool) -> None:
        super().__init__()
        self.level, self.sum = _Residual(width, batch_norm), _Residual(width, batch_norm)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, coarser: Tensor | None = None) -> Tensor:
        level = self.level(level)
        if coarser is not None:
            # corners aligned, as in the authors' code
            level = level + nn.functional.interpolate(coarser, level.shape[-2:], mode="bilinear", align_corners=True)
        return self.project(self.sum(level))


class _Residual(nn.Sequential):
    """The residual convolution unit of RefineNet (Lin et al. 2017, arXiv 1611.06612, section 3.2)."""

    def __init__(self, width: int, batch_norm: bool) -> None:
        units: list[nn.Module] = []
        for _ in range(2):
            units += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=not batch_norm)]
            units += [_BatchNorm2d(width)] if batch_norm else []
        super().__init__(*units)

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class _BatchNorm2d(nn.BatchNorm2d):
    """Takes its running statistics where training has one value per channel, which has no variance.

    A map coarser than the encoder's own has a single position for an image of two positions each way.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)
