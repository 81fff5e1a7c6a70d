"""Focal loss against torchvision, segmentation-models-pytorch and the formula in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torchvision.ops import sigmoid_focal_loss

from segweave.errors import ConfigError
from segweave.losses.cross_entropy import CrossEntropy
from segweave.losses.focal import Focal, sigmoid_focal
from segweave.tasks.classification import Classification
from segweave.tasks.semantic import Semantic

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.9])
def test_sigmoid_form_is_torchvisions(gamma: float, alpha: float) -> None:
    logits = (torch.randn(3, 7, 5, dtype=torch.float64) * 4).requires_grad_()
    target = torch.randint(0, 2, (3, 7, 5)).double()
    ours, theirs = sigmoid_focal(logits, target, alpha, gamma), sigmoid_focal_loss(logits, target, alpha, gamma)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), logits), torch.autograd.grad(theirs.sum(), logits))


def test_sigmoid_form_sums_known_entries() -> None:
    logits, target = torch.randn(3, 5), torch.randint(-1, 2, (3, 5)).float()
    loss, known = Focal(-1), target != -1
    expected = sigmoid_focal_loss(logits, target.clamp(min=0)).where(known, 0).sum(1)
    torch.testing.assert_close(loss(logits, target), expected)
    assert loss.count(target).tolist() == known.sum(1).tolist()


@pytest.mark.parametrize("logit", [-200.0, -30.0, 30.0, 200.0])
def test_sigmoid_form_keeps_its_digits_far_out(logit: float) -> None:
    """In float32 `1 - sigmoid(30)` is 0; the true value is e^-30 and its square times 1e-13 is still a number."""
    given = torch.tensor([logit], requires_grad=True)
    for truth in (0.0, 1.0):
        value = sigmoid_focal(given, torch.tensor([truth]), 0.25, 2.0)
        exact = sigmoid_focal(given.detach().double(), torch.tensor([truth]).double(), 0.25, 2.0)
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-37)
        assert torch.autograd.grad(value, given)[0].isfinite()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_softmax_form_is_the_equation(gamma: float) -> None:
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    target = torch.randint(0, 4, (2, 5, 6)).where(torch.rand(2, 5, 6) < 0.8, IGNORE)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0])
    values = Focal(IGNORE, weight, gamma=gamma)(logits, target.to(torch.uint8))
    for value, image, truth in zip(values.tolist(), logits.numpy(), target.numpy(), strict=True):
        probability = np.exp(image) / np.exp(image).sum(0)
        expected = sum(
            -weight[c].item() * (1 - probability[c, y, x]) ** gamma * np.log(probability[c, y, x])
            for (y, x), c in np.ndenumerate(truth)
            if c != IGNORE
        )
        assert value == pytest.approx(expected, rel=1e-10)


def test_softmax_form_on_images_is_smps() -> None:
    """smp takes a sigmoid per class, which for two classes of logits (0, x) and one of them is our softmax."""
    logits, target = torch.randn(2, 6, 7), torch.randint(0, 2, (2, 6, 7))
    both = torch.stack([torch.zeros_like(logits), logits], 1)
    expected = smp.losses.FocalLoss("binary", gamma=2.0)(logits, target)
    loss = Focal(IGNORE)
    torch.testing.assert_close(loss(both, target).sum() / loss.count(target).sum(), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_gamma_of_zero_is_cross_entropy(weighted: bool) -> None:
    logits, target = torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 5, 6)).where(torch.rand(2, 5, 6) < 0.8, IGNORE)
    weight = torch.tensor([0.5, 2.0, 1.0]) if weighted else None
    focal, plain = Focal(IGNORE, weight, gamma=0.0), CrossEntropy(IGNORE, weight)
    torch.testing.assert_close(focal(logits, target), plain(logits, target))
    torch.testing.assert_close(focal.count(target), plain.count(target))


@pytest.mark.parametrize("options", [{"gamma": -1.0}, {"gamma": math.nan}, {"alpha": 1.5}, {"alpha": -1.0}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"focal\.{next(iter(options))}: found"):
        Focal(IGNORE, **options)


def test_alpha_is_for_labels_of_0_and_1() -> None:
    task = Semantic("road", classes=3, loss={"focal": {"alpha": 0.25}})
    with pytest.raises(ConfigError, match=r"focal\.alpha.*class_weights"):
        task.counts(torch.zeros(1, 4, 4, dtype=torch.uint8))
    scene = Classification("scene", classes=3, multi_label=True, loss={"focal": {"weight": 1.0, "alpha": 0.5}})
    assert scene.counts(torch.tensor([[0.0, 1.0, -1.0]]))["focal"].tolist() == [2]
