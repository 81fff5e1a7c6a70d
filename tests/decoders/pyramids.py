"""Made-up encoder levels of many shapes, and decoders on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segweave.decoders import DECODERS

PYRAMIDS = {
    "five levels": ([8, 12, 16, 24, 32], [2, 4, 8, 16, 32]),
    "six from the image's own size": ([4, 8, 12, 16, 24, 32], [1, 2, 4, 8, 16, 32]),
    "four levels": ([12, 16, 24, 32], [4, 8, 16, 32]),
    "three coarse levels": ([12, 16, 24], [16, 32, 64]),
    "without the coarsest": ([8, 12, 16, 24], [2, 4, 8, 16]),
    "of patches of 14": ([12, 24, 24], [7, 14, 28]),
    "of one stride": ([24, 24, 24, 24], [16, 16, 16, 16]),
    "of one odd stride": ([24, 24, 24], [7, 7, 7]),
    "partly of one stride": ([12, 24, 24], [7, 14, 14]),
    "two levels": ([12, 24], [8, 16]),
    "one level": ([24], [16]),
    "one fine level": ([24], [2]),
}


def levels_of(pyramid: str, batch: int = 2, height: int = 2, width: int = 3) -> list[Tensor]:
    """Random levels; `height` and `width` are of the coarsest one."""
    channels, strides = PYRAMIDS[pyramid]
    coarsest = max(strides)
    return [
        torch.randn(batch, c, height * coarsest // s, width * coarsest // s, requires_grad=True)
        for c, s in zip(channels, strides, strict=True)
    ]


def built(name: str, pyramid: str, **options: Any) -> Any:
    """A narrow decoder for one of the pyramids."""
    torch.manual_seed(0)
    return DECODERS.load(name)(*PYRAMIDS[pyramid], **{"width": 16, **options})


def lived(module: nn.Module) -> nn.Module:
    """The same module with statistics and weights of its batch norms as if it had been trained."""
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    return module


def gradients(output: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    """By a fixed weighting of the output that tells all its values apart."""
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    return list(torch.autograd.grad((output * weights).sum(), of))
