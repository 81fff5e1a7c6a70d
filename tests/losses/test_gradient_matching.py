"""Gradient matching against the formula in float64, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segweave.errors import ConfigError
from segweave.losses.gradient_matching import GradientMatching


def measured(*shape: int) -> torch.Tensor:
    return (torch.rand(shape, dtype=torch.float64) * 9 + 1).where(torch.rand(shape) < 0.8, 0)


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_is_the_equation(scales: int) -> None:
    torch.manual_seed(0)
    output, target = torch.rand(2, 13, 18, dtype=torch.float64) * 9 + 1, measured(2, 13, 18)
    values = GradientMatching(scales=scales)(output, target).tolist()
    for value, guess, truth in zip(values, output.numpy(), target.numpy(), strict=True):
        total = 0.0
        for k in range(scales):
            coarse, there = guess[:: 2**k, :: 2**k], truth[:: 2**k, :: 2**k]
            slopes = 0.0
            for (y, x), metres in np.ndenumerate(there):
                for other in ((y, x + 1), (y + 1, x)):
                    if metres > 0 and other[0] < there.shape[0] and other[1] < there.shape[1] and there[other] > 0:
                        here, next_ = (math.log(coarse[p]) - math.log(there[p]) for p in ((y, x), other))
                        slopes += abs(next_ - here)
            total += slopes / (there > 0).sum()
        assert value == pytest.approx(total, rel=1e-12)
    assert GradientMatching().count(target).tolist() == [1, 1]


def test_a_global_scale_costs_nothing() -> None:
    target = measured(2, 9, 9)
    torch.testing.assert_close(GradientMatching()(target * 7 + (target == 0), target), torch.zeros(2).double())


def test_by_hand() -> None:
    # log ratios 0, log 2, 0 beside a pixel that is not measured: two steps of log 2 over three measured pixels
    output, target = torch.tensor([[[1.0, 4.0, 3.0, 9.0]]]), torch.tensor([[[1.0, 2.0, 3.0, 0.0]]])
    torch.testing.assert_close(GradientMatching(scales=1)(output, target), torch.tensor([2 * math.log(2) / 3]))


@pytest.mark.parametrize("scales", [0, -1])
def test_scales_are_counted_from_1(scales: int) -> None:
    with pytest.raises(ConfigError, match=r"gradient_matching\.scales: found"):
        GradientMatching(scales=scales)
