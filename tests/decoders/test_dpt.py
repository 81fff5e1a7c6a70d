"""DPT against segmentation-models-pytorch, and on the transformers it was made for."""

from __future__ import annotations

import pytest
import torch
from pyramids import PYRAMIDS, built, gradients, levels_of, lived
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from torch import nn
from torch.nn import functional

from segweave.backbones import Encoder
from segweave.decoders.dpt import DPT


def twin(ours: DPT, channels: list[int], strides: list[int], inner: list[int]) -> DPTDecoder:
    """The decoder of segmentation-models-pytorch with the same weights."""
    theirs = DPTDecoder(channels, strides, False, "ignore", inner, ours.channels)
    for reassemble, block in zip(ours.reassemble, theirs.reassemble_blocks, strict=True):
        if isinstance(reassemble[0], nn.Identity):
            block.project_to_out_channel = nn.Identity()
        else:
            block.project_to_out_channel.load_state_dict(reassemble[0][0].state_dict())
            block.upsample.load_state_dict(reassemble[0][1].state_dict())
        block.project_to_feature_dim.load_state_dict(reassemble[1].state_dict())
    for fusion, block in zip(ours.fusion, reversed(theirs.fusion_blocks), strict=True):
        block.project.load_state_dict(fusion.project.state_dict())
        for unit, copy in ((fusion.level, block.residual_conv_block1), (fusion.sum, block.residual_conv_block2)):
            for i, module in ((1, copy.conv_1), (2, copy.batch_norm_1), (4, copy.conv_2), (5, copy.batch_norm_2)):
                module.load_state_dict(unit[i].state_dict())
    return theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pyramid", ["of one stride", "four levels"])
def test_is_the_one_of_smp(pyramid: str, training: bool) -> None:
    channels, strides = PYRAMIDS[pyramid]
    ours = lived(built("dpt", pyramid, dropout=0.0)).train(training)
    inner = [16, 24, 24, 24] if pyramid == "of one stride" else channels
    theirs = twin(ours, channels, strides, inner).train(training)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    levels = levels_of(pyramid, height=4, width=6)
    expected = theirs(levels, [None] * 4)
    found = functional.interpolate(ours(levels), scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for mine, reference in zip(gradients(found, levels), gradients(expected, levels), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-3)


def test_layers_of_a_transformer_become_the_pyramid_of_the_paper() -> None:
    encoder = Encoder("vit_tiny_patch16_224", options={"out_indices": [2, 5, 8, 11]})
    decoder = DPT(encoder.channels, encoder.strides, width=32)
    assert (encoder.strides, decoder.pyramid_strides, decoder.stride) == ([16] * 4, [4, 8, 16, 32], 4)
    resamplings = [reassemble[0][1] for reassemble in decoder.reassemble]
    assert [type(r) for r in resamplings] == [nn.ConvTranspose2d, nn.ConvTranspose2d, nn.Identity, nn.Conv2d]
    assert [r.stride[0] for r in (resamplings[0], resamplings[1], resamplings[3])] == [4, 2, 2]
    for height, width in ((80, 112), (32, 32)):
        maps = decoder.train().pyramid(encoder(torch.randn(1, 3, height, width)))
        expected = [(1, 32, -(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
        assert [tuple(m.shape) for m in maps] == expected
        assert all(m.isfinite().all() for m in maps)


def test_the_simple_pyramid_is_fused_as_it_is() -> None:
    encoder = Encoder("test_vit")
    decoder = DPT(encoder.channels, encoder.strides, width=32)
    assert decoder.pyramid_strides == encoder.strides == [4, 8, 16, 32]
    assert all(isinstance(reassemble[0], nn.Identity) for reassemble in decoder.reassemble)


@pytest.mark.parametrize(
    ("stride", "count", "strides"),
    [
        (16, 4, [4, 8, 16, 32]),
        (16, 3, [4, 8, 16]),
        (16, 5, [4, 8, 16, 32, 32]),
        (8, 4, [4, 8, 16, 16]),
        (14, 4, [7, 14, 28, 28]),
        (32, 4, [4, 8, 16, 32]),
        (7, 2, [7, 14]),
    ],
)
def test_strides_of_resampled_levels(stride: int, count: int, strides: list[int]) -> None:
    decoder = DPT([12] * count, [stride] * count, width=8)
    assert decoder.pyramid_strides == strides
    maps = decoder.pyramid([torch.randn(1, 12, 4, 6)] * count)
    assert [tuple(m.shape[2:]) for m in maps] == [(4 * stride // s, 6 * stride // s) for s in strides]


def test_inner_widths_are_those_of_the_papers_large_model() -> None:
    with torch.device("meta"):
        decoder = DPT([1024] * 4, [16] * 4, width=256)
    assert [reassemble[1].in_channels for reassemble in decoder.reassemble] == [256, 512, 1024, 1024]


def test_normalisation_can_be_left_out() -> None:
    decoder = built("dpt", "four levels", batch_norm=False)
    assert not [m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert decoder.fusion[0].level[1].bias is not None


def test_a_single_value_is_normalised_by_the_running_statistics() -> None:
    norm = lived(built("dpt", "four levels")).fusion[3].level[2].train()
    one, before = torch.randn(1, 16, 1, 1), norm.running_mean.clone()
    expected = (one - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(one), expected)
    assert torch.equal(norm.running_mean, before)
    norm(torch.randn(1, 16, 1, 2))
    assert not torch.equal(norm.running_mean, before)
