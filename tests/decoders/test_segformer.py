"""SegFormer's decoder against segmentation-models-pytorch, values and gradients."""

from __future__ import annotations

import pytest
import torch
from pyramids import PYRAMIDS, built, gradients, levels_of, lived
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder


@pytest.mark.parametrize("training", [True, False])
def test_mixing_before_enlarging_is_the_one_of_smp(training: bool) -> None:
    ours = lived(built("segformer", "four levels", dropout=0.0)).train(training)
    levels = levels_of("four levels", height=3, width=5)
    theirs = SegformerDecoder([3, 0, *PYRAMIDS["four levels"][0]], 5, 16).train(training)
    for project, copy in zip(ours.project, reversed(theirs.mlp_stage), strict=True):
        copy.linear.weight.data, copy.linear.bias.data = project.weight.data[:, :, 0, 0], project.bias.data
    # theirs lays the coarsest level first
    theirs.fuse_stage[0].weight.data = torch.cat([mix.weight.data for mix in reversed(ours.mix)], dim=1)
    theirs.fuse_stage[1].load_state_dict(ours.norm.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    found, expected = ours(levels), theirs([torch.empty(2, 3, 96, 160), torch.empty(2, 0, 48, 80), *levels])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for mine, reference in zip(gradients(found, levels), gradients(expected, levels), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4)


def test_no_position_sees_another_of_its_level() -> None:
    decoder = built("segformer", "four levels").eval()
    levels = levels_of("four levels")
    decoder(levels)[0, :, 5, 7].sum().backward()
    assert levels[0].grad is not None
    seen = levels[0].grad[0].abs().sum(0).nonzero().tolist()
    assert seen == [[5, 7]]
