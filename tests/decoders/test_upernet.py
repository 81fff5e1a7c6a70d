"""UPerNet against segmentation-models-pytorch, and its pooling against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from pyramids import PYRAMIDS, built, gradients, levels_of, lived
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import nn
from torch.nn import functional

from segweave.decoders.upernet import _average


def test_is_the_one_of_smp() -> None:
    ours = lived(built("upernet", "four levels")).eval()
    levels = levels_of("four levels", height=5, width=7)
    theirs = UPerNetDecoder([3, 8, *PYRAMIDS["four levels"][0]], 5, 16).eval()
    theirs.feature_norms = nn.ModuleList(nn.Identity() for _ in levels)  # theirs, not the paper's
    pairs = [(ours.context.project, theirs.psp.out_conv), (ours.mix, theirs.fusion_block)]
    pairs += list(zip(ours.lateral, (b.conv_norm_relu for b in reversed(theirs.fpn_lateral_blocks)), strict=True))
    pairs += list(zip(ours.smooth, reversed(theirs.fpn_conv_blocks), strict=True))
    pairs += [(part, block[1]) for part, block in zip(ours.context.parts, theirs.psp.blocks, strict=True)][1:]
    for mine, copy in pairs:
        copy.load_state_dict(mine.state_dict())
    # the part over the whole image has a bias here and a normalisation there, which can be made one
    whole, block = ours.context.parts[0], theirs.psp.blocks[0][1]
    block[0].weight.data, block[1].bias.data = whole[0].weight.data, whole[0].bias.data
    block[1].weight.data.fill_((1 + block[1].eps) ** 0.5)
    count = [sum(p.numel() for p in decoder.parameters()) for decoder in (ours, theirs)]
    assert count[1] - count[0] == 16
    found, expected = ours(levels), theirs([torch.empty(0), torch.empty(0), *levels])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for mine, reference in zip(gradients(found, levels), gradients(expected, levels), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (6, 6), (13, 4), (24, 31)])
def test_averages_as_adaptive_pooling_does(bins: int, size: tuple[int, int]) -> None:
    level = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    found, expected = _average(level, bins), functional.adaptive_avg_pool2d(level, bins)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, [level]), gradients(expected, [level]))


def test_bins_are_an_option() -> None:
    decoder = built("upernet", "four levels", bins=[2])
    assert [type(part[1]) for part in decoder.context.parts] == [nn.BatchNorm2d]
    assert decoder.context.project[0].in_channels == 32 + 16
