"""The FPN against the formula written out."""

from __future__ import annotations

import pytest
import torch
from pyramids import PYRAMIDS, built, levels_of, lived
from torch import Tensor
from torch.nn import functional


@pytest.mark.parametrize("pyramid", ["five levels", "of one stride", "of patches of 14"])
def test_is_the_formula_of_the_papers(pyramid: str) -> None:
    decoder = lived(built("fpn", pyramid)).eval()
    levels = levels_of(pyramid)
    state = decoder.state_dict()

    def convolved(x: Tensor, name: str, padding: int) -> Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding=padding)

    used = [levels[i] for i in decoder.levels]
    merged: Tensor | None = None
    total = torch.zeros(2, 16, *used[0].shape[-2:])
    for i in reversed(range(len(used))):
        lateral = convolved(used[i], f"top_down.inner_blocks.{i}.0", 0)
        merged = lateral if merged is None else lateral + functional.interpolate(merged, lateral.shape[-2:])
        x = convolved(convolved(merged, f"top_down.layer_blocks.{i}.0", 1), f"smooth.{i}.0", 1)
        mean, var = state[f"smooth.{i}.1.running_mean"], state[f"smooth.{i}.1.running_var"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        x = (x * state[f"smooth.{i}.1.weight"][:, None, None] + state[f"smooth.{i}.1.bias"][:, None, None]).relu()
        total += functional.interpolate(x, total.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(decoder(levels), total, rtol=1e-4, atol=1e-4)


def test_starts_at_stride_four() -> None:
    starts = {pyramid: (built("fpn", pyramid).levels[0], built("fpn", pyramid).stride) for pyramid in PYRAMIDS}
    assert starts["six from the image's own size"] == (2, 4)
    assert starts["five levels"] == (1, 4)
    assert starts["three coarse levels"] == (0, 16)
    assert starts["one fine level"] == (0, 2)


def test_drops_whole_channels_in_training_only() -> None:
    decoder = built("fpn", "four levels", dropout=0.5)
    levels = levels_of("four levels", 8)
    dropped = (decoder.train()(levels) == 0).all(-1).all(-1).float().mean()
    assert 0.3 < dropped < 0.7
    assert torch.equal(decoder.eval()(levels), decoder(levels))
