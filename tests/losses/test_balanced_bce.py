"""Class-balanced cross-entropy against its equation, PyTorch's weighted one and the binary task that calls it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from segweave.errors import ConfigError
from segweave.losses.balanced_bce import BalancedBCE
from segweave.tasks.edges import Edges

IGNORE = 255


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    output = torch.randn(4, 2, 6, 7)
    target = (torch.rand(4, 6, 7) < 0.2).long().where(torch.rand(4, 6, 7) < 0.8, IGNORE)
    return output, target


@pytest.mark.parametrize("pos_weight", [None, 0.95])
def test_is_equation_2_in_float64(pos_weight: float | None) -> None:
    output, target = drawn()
    found = BalancedBCE(IGNORE, pos_weight=pos_weight)(output, target)
    for image in range(4):
        labels = target[image].numpy().ravel()
        logits = (output[image, 1] - output[image, 0]).double().numpy().ravel()[labels != IGNORE]
        labels = labels[labels != IGNORE]
        beta = (labels == 0).mean() if pos_weight is None else pos_weight
        probability = 1 / (1 + np.exp(-logits))
        expected = -beta * np.log(probability[labels == 1]).sum()
        expected -= (1 - beta) * np.log(1 - probability[labels == 0]).sum()
        assert float(found[image]) == pytest.approx(expected, rel=1e-5)


def test_fixed_weight_is_torchs_pos_weight_as_the_multi_task_programs_call_it() -> None:
    """`binary_cross_entropy_with_logits` with pos_weight w / (1 - w), over 1 / (1 - w), mean over labelled pixels."""
    output, target = drawn()
    known, w = target != IGNORE, 0.95
    logits = (output[:, 1] - output[:, 0])[known]
    expected = (1 - w) * functional.binary_cross_entropy_with_logits(
        logits, target[known].float(), pos_weight=torch.tensor(w / (1 - w))
    )
    loss = BalancedBCE(IGNORE, pos_weight=w)
    torch.testing.assert_close(loss(output, target).sum() / loss.count(target).sum(), expected)


def test_hand_value() -> None:
    """One edge of four pixels, x = 0 everywhere: beta 3/4, so 3/4 log 2 + 3 * 1/4 log 2."""
    target = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    value = BalancedBCE(IGNORE)(torch.zeros(1, 2, 2, 2), target)
    torch.testing.assert_close(value, torch.tensor([1.5 * math.log(2)]))


def test_an_image_without_an_edge_teaches_only_with_a_fixed_weight() -> None:
    output = torch.zeros(1, 2, 3, 3, requires_grad=True)
    target = torch.zeros(1, 3, 3, dtype=torch.uint8)
    assert BalancedBCE(IGNORE)(output, target).tolist() == [0]
    assert BalancedBCE(IGNORE, pos_weight=0.9)(output, target).item() == pytest.approx(0.9 * math.log(2))


def test_the_task_gives_it_its_one_logit() -> None:
    raw, (_, target) = torch.randn(4, 1, 6, 7), drawn()
    terms = Edges("edges").loss(raw, target)["balanced_bce"]
    pair = torch.cat([torch.zeros_like(raw), raw], 1)
    torch.testing.assert_close(terms.sum, BalancedBCE(IGNORE)(pair, target))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_unlabelled_outputs_may_be_anything(bad: float) -> None:
    output, target = drawn()
    broken = torch.where((target == IGNORE)[:, None], bad, output).requires_grad_()
    value = BalancedBCE(IGNORE)(broken, target)
    torch.testing.assert_close(value, BalancedBCE(IGNORE)(output, target))
    value.sum().backward()
    assert broken.grad is not None
    assert broken.grad.isfinite().all()


@pytest.mark.parametrize("weight", [0, 1, -0.5, 1.5])
def test_a_weight_outside_0_to_1_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"balanced_bce\.pos_weight: found"):
        Edges("e", loss={"balanced_bce": {"pos_weight": weight}})
