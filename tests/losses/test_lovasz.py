"""Lovasz-Softmax against segmentation-models-pytorch, its definition by subsets in float64, and IoU itself."""

from __future__ import annotations

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

from segweave.losses.iou import SoftIoU
from segweave.losses.lovasz import LovaszSoftmax

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_is_smp_per_image(dtype: torch.dtype) -> None:
    output = torch.randn(4, 5, 9, 7, requires_grad=True)
    target = torch.randint(0, 4, (4, 9, 7)).where(torch.rand(4, 9, 7) < 0.8, IGNORE)
    reference = smp.losses.LovaszLoss("multiclass", per_image=True, ignore_index=IGNORE)
    ours, theirs = LovaszSoftmax(IGNORE)(output, target.to(dtype)).mean(), reference(output, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, output), torch.autograd.grad(theirs, output))


def jaccard_loss(wrong: np.ndarray, truth: np.ndarray) -> float:
    """1 - IoU of a prediction that is wrong at these pixels."""
    union = (truth | wrong).sum()
    return float(wrong.sum() / union) if union else 0.0


def extension(errors: np.ndarray, truth: np.ndarray) -> float:
    """The Lovasz extension by its definition: the set function at growing sets of the largest errors, times these."""
    total, before = 0.0, 0.0
    wrong = np.zeros(len(errors), bool)
    for pixel in np.argsort(-errors):
        wrong[pixel] = True
        after = jaccard_loss(wrong, truth)
        total += float(errors[pixel]) * (after - before)
        before = after
    return total


@pytest.mark.parametrize("first", [0, 1])
def test_is_the_definition_in_float64(first: int) -> None:
    output = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    target = torch.randint(0, 3, (3, 5, 6)).where(torch.rand(3, 5, 6) < 0.8, IGNORE)
    target[2] = torch.where(target[2] == IGNORE, IGNORE, 0)
    values = LovaszSoftmax(IGNORE, first)(output, target).tolist()
    for value, scores, labels in zip(values, output.softmax(1).numpy(), target.numpy(), strict=True):
        known = labels != IGNORE
        costs, absent = [], []
        for c in range(first, 4):
            truth = labels[known] == c
            errors = np.where(truth, 1 - scores[c][known], scores[c][known])
            (costs if truth.any() else absent).append(extension(errors, truth))
        assert value == pytest.approx(np.mean(costs or absent), rel=1e-12)


def test_of_decisions_is_one_minus_iou() -> None:
    truth, guess = torch.randint(0, 3, (4, 8, 8)), torch.randint(0, 3, (4, 8, 8))
    sure = functional.one_hot(guess, 3).movedim(-1, 1) * 200.0
    torch.testing.assert_close(LovaszSoftmax(IGNORE)(sure, truth), SoftIoU(IGNORE)(sure, truth))


def test_negative_image_of_a_binary_task_costs_its_largest_probability() -> None:
    x = torch.randn(1, 1, 6, 6)
    value = LovaszSoftmax(IGNORE, 1)(torch.cat([torch.zeros_like(x), x], 1), torch.zeros(1, 6, 6, dtype=torch.int64))
    torch.testing.assert_close(value, x.max().sigmoid()[None])


def test_large_image_keeps_its_digits() -> None:
    """The differences of IoU that algorithm 1 takes have two digits left in float32 at half a million pixels."""
    output = torch.randn(1, 2, 700, 700)
    target = (torch.rand(1, 700, 700) < 0.4).to(torch.uint8)
    given = output.softmax(1).log().requires_grad_()
    LovaszSoftmax(IGNORE, 1)(given, target).sum().backward()
    probability, truth = output.double().softmax(1)[0, 1].numpy().ravel(), target.numpy().ravel() == 1
    order = np.argsort(-np.where(truth, 1 - probability, probability))
    right = truth.sum() - np.cumsum(truth[order])
    grown = np.diff(1 - right / (truth.sum() + np.cumsum(~truth[order])), prepend=0)
    slope = np.empty_like(grown)
    slope[order] = np.where(truth[order], -grown, grown)
    expected = slope * probability * (1 - probability)
    assert given.grad is not None
    error = np.linalg.norm(given.grad[0, 1].numpy().ravel() - expected) / np.linalg.norm(expected)
    assert error < 1e-3
