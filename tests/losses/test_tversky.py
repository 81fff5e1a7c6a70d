"""Tversky loss against segmentation-models-pytorch, the losses it contains, and hand values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from segweave.errors import ConfigError
from segweave.losses.dice import Dice
from segweave.losses.iou import SoftIoU
from segweave.losses.tversky import Tversky

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.9, 0.1)])
def test_is_smp_on_one_image(alpha: float, beta: float) -> None:
    """smp divides by all classes, absent ones scoring a loss of 0; here the mean is over the present ones."""
    output, target = torch.randn(1, 5, 8, 8), torch.randint(0, 3, (1, 8, 8))
    expected = smp.losses.TverskyLoss("multiclass", smooth=0.0, alpha=alpha, beta=beta)(output, target) * 5 / 3
    torch.testing.assert_close(Tversky(IGNORE, alpha=alpha, beta=beta)(output, target)[0], expected)


def test_focal_is_smp_on_one_class() -> None:
    """smp raises to the power gamma, the paper to 1 / gamma."""
    logit, target = torch.randn(1, 1, 8, 8), torch.randint(0, 2, (1, 8, 8))
    expected = smp.losses.TverskyLoss("binary", smooth=0.0, alpha=0.3, beta=0.7, gamma=0.75)(logit, target)
    output = torch.cat([torch.zeros_like(logit), logit], 1)
    torch.testing.assert_close(Tversky(IGNORE, 1, gamma=4 / 3)(output, target)[0], expected)


@pytest.mark.parametrize(("alpha", "kind"), [(0.5, Dice), (1.0, SoftIoU)])
def test_contains_dice_and_iou(alpha: float, kind: type[Dice | SoftIoU]) -> None:
    output = torch.randn(3, 4, 8, 8)
    target = torch.randint(0, 4, (3, 8, 8)).where(torch.rand(3, 8, 8) < 0.8, IGNORE)
    for first in (0, 1):
        ours = Tversky(IGNORE, first, alpha=alpha, beta=alpha)(output, target)
        torch.testing.assert_close(ours, kind(IGNORE, first)(output, target))


def test_by_hand() -> None:
    # foreground probabilities 3/4, 1/4, 1/2, 1/2, truth 1 0 1 0: I = 1.25, false 0.75, missed 0.75
    x = torch.tensor([math.log(3), -math.log(3), 0.0, 0.0]).view(1, 1, 2, 2)
    output, target = torch.cat([torch.zeros_like(x), x], 1), torch.tensor([[[1, 0], [1, 0]]])
    cost = 1 - 1.25 / (1.25 + 0.2 * 0.75 + 0.6 * 0.75)
    torch.testing.assert_close(Tversky(IGNORE, 1, alpha=0.2, beta=0.6)(output, target), torch.tensor([cost]))
    focal = Tversky(IGNORE, 1, alpha=0.2, beta=0.6, gamma=2.0)(output, target)
    torch.testing.assert_close(focal, torch.tensor([math.sqrt(cost)]))


@pytest.mark.parametrize("key", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_options_are_positive(key: str, value: float) -> None:
    options: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=rf"tversky\.{key}: found"):
        Tversky(IGNORE, **options)
