"""Binary cross-entropy against PyTorch, in both forms of target and as the binary task calls it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from segweave.losses.bce import BCE
from segweave.tasks.semantic import Semantic

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_is_torchs_mean_over_known_entries() -> None:
    output = torch.randn(6, 5)
    target = torch.randint(-1, 2, (6, 5)).float()
    known = target != -1
    loss = BCE(-1)
    expected = functional.binary_cross_entropy_with_logits(output[known], target[known])
    torch.testing.assert_close(loss(output, target).sum() / loss.count(target).sum(), expected)
    assert loss.count(target).tolist() == known.sum(1).tolist()


def test_hand_value() -> None:
    output = torch.tensor([[0.0, math.log(3), 5.0]])
    value = BCE(-1)(output, torch.tensor([[1.0, 0.0, -1.0]]))
    torch.testing.assert_close(value, torch.tensor([math.log(2) + math.log(4)]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_classes_are_told_one_from_the_rest(dtype: torch.dtype) -> None:
    output = torch.randn(3, 4, 5, 6)
    target = torch.randint(0, 4, (3, 5, 6)).where(torch.rand(3, 5, 6) < 0.8, IGNORE)
    known = target != IGNORE
    one_hot = functional.one_hot(target[known], 4).float()
    expected = functional.binary_cross_entropy_with_logits(output.movedim(1, -1)[known], one_hot)
    loss = BCE(IGNORE)
    torch.testing.assert_close(loss(output, target.to(dtype)).sum() / loss.count(target.to(dtype)).sum(), expected)
    assert loss.count(target).tolist() == known.flatten(1).sum(1).tolist()


def test_binary_task_is_the_bce_of_its_logit() -> None:
    task = Semantic("water", classes=1, loss="bce")
    raw = torch.randn(2, 1, 5, 6, requires_grad=True)
    target = torch.randint(0, 2, (2, 5, 6)).where(torch.rand(2, 5, 6) < 0.8, IGNORE).to(torch.uint8)
    terms = task.loss(raw, target)["bce"]
    known = target != IGNORE
    expected = functional.binary_cross_entropy_with_logits(raw[:, 0][known], target[known].float())
    mean = terms.sum.sum() / terms.count.sum()
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(torch.autograd.grad(mean, raw), torch.autograd.grad(expected, raw))
