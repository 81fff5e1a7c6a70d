"""DeepLabV3+: its pooling against segmentation-models-pytorch, the rest against the formula, and its rates."""

from __future__ import annotations

import pytest
import torch
from pyramids import PYRAMIDS, built, gradients, levels_of, lived
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP, SeparableConv2d
from torch import Tensor, nn
from torch.nn import functional

from segweave.backbones import Encoder
from segweave.decoders.deeplabv3plus import DeepLabV3Plus


def pooling_of_smp(ours: DeepLabV3Plus, channels: int) -> ASPP:
    theirs = ASPP(channels, ours.channels, (1, 2, 3), separable=True, dropout=0.0).eval()
    for view, copy in zip(ours.pooling.views, list(theirs.convs)[:-1], strict=True):
        copy.load_state_dict(dict(zip(copy.state_dict(), view.state_dict().values(), strict=True)))
    theirs.project.load_state_dict(ours.pooling.project.state_dict())
    # the view of the whole image has a bias here and a normalisation there, which can be made one
    _, convolution, norm, _ = theirs.convs[-1]
    convolution.weight.data, norm.bias.data = ours.pooling.image[0].weight.data, ours.pooling.image[0].bias.data
    norm.weight.data.fill_((1 + norm.eps) ** 0.5)
    return theirs


def test_is_the_formula_with_the_pooling_of_smp() -> None:
    ours: DeepLabV3Plus = lived(built("deeplabv3plus", "five levels", rates=[1, 2, 3], low_level_width=8)).eval()
    levels = levels_of("five levels", height=5, width=7)
    pooling = pooling_of_smp(ours, PYRAMIDS["five levels"][0][-1])
    count = [sum(p.numel() for p in module.parameters()) for module in (ours.pooling, pooling)]
    assert count[1] - count[0] == 16

    def normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()

    (project,) = ours.low_level
    low = normalised(functional.conv2d(levels[1], project[0].weight), project[1])
    high = functional.interpolate(pooling(levels[4]), low.shape[-2:], mode="bilinear", align_corners=False)
    x = torch.cat([high, low], dim=1)
    for depthwise, pointwise in ours.refine:
        separable = SeparableConv2d(x.shape[1], 16, 3, padding=1, bias=False)
        separable[0].weight.data, separable[1].weight.data = depthwise.weight.data, pointwise[0].weight.data
        x = normalised(separable(x), pointwise[1])
    found, read = ours(levels), [levels[1], levels[4]]
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
    for mine, reference in zip(gradients(found, read), gradients(x, read), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9]), (14, [6, 13, 20]), (128, [1, 1, 2])]
)
def test_rates_see_the_same_part_of_the_image_at_any_stride(stride: int, rates: list[int]) -> None:
    decoder = DeepLabV3Plus([8, 8], [4, stride], width=8)
    dilated = [m for m in decoder.pooling.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.dilation for m in dilated] == [m.padding for m in dilated] == [(rate, rate) for rate in rates]


def test_rates_that_are_given_stay() -> None:
    decoder = DeepLabV3Plus([8, 8], [4, 32], width=8, rates=[5])
    assert [m.dilation[0] for m in decoder.pooling.modules() if isinstance(m, nn.Conv2d)] == [1, 5, 1, 1, 1]


def test_a_dilated_encoder_gives_the_arrangement_of_the_paper() -> None:
    encoder = Encoder("test_resnet", options={"output_stride": 16})
    decoder = DeepLabV3Plus(encoder.channels, encoder.strides, width=8)
    assert (decoder.pyramid_strides, decoder.pyramid_channels) == ([4, 16], [48, 8])
    assert decoder.pooling.views[1][0].dilation == (6, 6)
