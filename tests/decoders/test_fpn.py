"""Every decoder against one contract, and the FPN against the formula written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from segweave.decoders import DECODERS
from segweave.decoders.fpn import FPN

OPTIONS: dict[str, dict[str, Any]] = {"fpn": {"width": 16}}
PYRAMIDS = {
    "five levels": ([8, 12, 16, 24, 32], [2, 4, 8, 16, 32]),
    "six from the image's own size": ([4, 8, 12, 16, 24, 32], [1, 2, 4, 8, 16, 32]),
    "four levels": ([12, 16, 24, 32], [4, 8, 16, 32]),
    "three coarse levels": ([12, 16, 24], [16, 32, 64]),
    "without the coarsest": ([8, 12, 16, 24], [2, 4, 8, 16]),
    "of patches of 14": ([12, 24, 24], [7, 14, 28]),
    "of one stride": ([24, 24, 24, 24], [16, 16, 16, 16]),
    "partly of one stride": ([12, 24, 24], [7, 14, 14]),
    "one level": ([24], [16]),
    "one fine level": ([24], [2]),
}


def levels_of(pyramid: str, batch: int = 2, height: int = 2, width: int = 3) -> list[Tensor]:
    channels, strides = PYRAMIDS[pyramid]
    coarsest = max(strides)
    return [
        torch.randn(batch, c, height * coarsest // s, width * coarsest // s, requires_grad=True)
        for c, s in zip(channels, strides, strict=True)
    ]


def built(name: str, pyramid: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return DECODERS.load(name)(*PYRAMIDS[pyramid], **OPTIONS[name], **options)


def test_no_decoder_escapes() -> None:
    assert set(OPTIONS) == set(DECODERS)


@pytest.mark.parametrize("pyramid", PYRAMIDS)
@pytest.mark.parametrize("name", DECODERS)
class TestEveryDecoder:
    @pytest.mark.parametrize("batch", [1, 2])
    def test_gives_one_map_of_the_declared_size(self, name: str, pyramid: str, batch: int) -> None:
        decoder = built(name, pyramid)
        levels = levels_of(pyramid, batch)
        result = decoder.train()(levels)
        pixels = 2 * max(PYRAMIDS[pyramid][1]), 3 * max(PYRAMIDS[pyramid][1])
        assert result.shape == (batch, decoder.channels, pixels[0] // decoder.stride, pixels[1] // decoder.stride)
        assert result.isfinite().all()

    def test_reads_just_the_levels_that_it_names_and_uses_all_its_parameters(self, name: str, pyramid: str) -> None:
        decoder = built(name, pyramid)
        levels = levels_of(pyramid)
        decoder.train()(levels).square().sum().backward()
        read = [i for i, level in enumerate(levels) if level.grad is not None and level.grad.abs().sum() > 0]
        assert read == list(decoder.levels)
        assert all(p.grad is not None for p in decoder.parameters())

    def test_images_do_not_mix_in_eval_mode(self, name: str, pyramid: str) -> None:
        decoder = built(name, pyramid).eval()
        levels = levels_of(pyramid, 3)
        alone = torch.cat([decoder([level[i : i + 1] for level in levels]) for i in range(3)])
        torch.testing.assert_close(decoder(levels), alone, rtol=1e-4, atol=1e-5)

    def test_leaves_its_input_alone(self, name: str, pyramid: str) -> None:
        levels = levels_of(pyramid)
        before = [level.detach().clone() for level in levels]
        built(name, pyramid)(levels)
        for level, copy in zip(levels, before, strict=True):
            assert torch.equal(level, copy)


@pytest.mark.parametrize("pyramid", ["five levels", "of one stride", "of patches of 14"])
def test_is_the_formula_of_the_papers(pyramid: str) -> None:
    decoder: FPN = built("fpn", pyramid).eval()
    for norm in (m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
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
        x = ((x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()).relu()
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
