"""The U-Net against segmentation-models-pytorch, values and gradients."""

from __future__ import annotations

import pytest
import torch
from pyramids import PYRAMIDS, built, gradients, levels_of, lived
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pyramid", ["five levels", "six from the image's own size"])
def test_is_the_one_of_smp(pyramid: str, training: bool) -> None:
    finest = PYRAMIDS[pyramid][1][0]
    ours = lived(built("unet", pyramid, width=16, finest=finest, dropout=0.0)).train(training)
    levels = levels_of(pyramid)
    channels = [3, *PYRAMIDS[pyramid][0]]
    theirs = UnetDecoder(channels, ours.pyramid_channels[::-1], len(levels) - 1).train(training)
    for step, block in zip(ours.steps, reversed(theirs.blocks), strict=True):
        for convolution, copy in zip(step, (block.conv1, block.conv2), strict=True):
            copy.load_state_dict(convolution.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    found, expected = ours(levels), theirs([torch.empty(2, 3, 64, 96), *levels])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for mine, reference in zip(gradients(found, levels), gradients(expected, levels), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4)


def test_widths_go_with_the_strides() -> None:
    assert built("unet", "five levels", width=64).pyramid_channels == [32, 64, 128, 256]
    assert built("unet", "four levels", width=64).pyramid_channels == [64, 128, 256]
    assert built("unet", "three coarse levels", width=64).pyramid_channels == [256, 512]
    assert built("unet", "six from the image's own size", width=64, finest=1).pyramid_channels == [16, 32, 64, 128, 256]


def test_reads_from_the_stride_it_is_told() -> None:
    pyramid = "six from the image's own size"
    assert {finest: built("unet", pyramid, finest=finest).stride for finest in (1, 2, 4, 8)} == {1: 1, 2: 2, 4: 4, 8: 8}
    assert built("unet", pyramid).levels == (1, 2, 3, 4, 5)
    assert built("unet", pyramid, finest=64).levels == (5,)
