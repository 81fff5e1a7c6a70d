"""Reverse Huber loss against the formula in float64, and its gradient at a threshold that stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segweave.losses.berhu import BerHu


def test_is_the_equation() -> None:
    torch.manual_seed(0)
    output = torch.rand(3, 6, 7, dtype=torch.float64) * 20
    target = (torch.rand(3, 6, 7, dtype=torch.float64) * 9 + 1).where(torch.rand(3, 6, 7) < 0.7, 0)
    loss = BerHu()
    for value, guess, truth in zip(loss(output, target).tolist(), output.numpy(), target.numpy(), strict=True):
        error = np.abs(guess - truth)[truth > 0]
        c = error.max() / 5
        assert value == pytest.approx(sum(x if x <= c else (x**2 + c**2) / (2 * c) for x in error), rel=1e-12)
    assert loss.count(target).tolist() == (target > 0).flatten(1).sum(1).tolist()


def test_by_hand() -> None:
    # errors 10, 1 and 4 with c = 2: (100 + 4) / 4, 1 and (16 + 4) / 4; the fourth pixel is not measured
    output, target = (
        torch.tensor([[[12.0, 3.0, 6.0, 99.0]]], requires_grad=True),
        torch.tensor([[[2.0, 4.0, 2.0, 0.0]]]),
    )
    value = BerHu()(output, target)
    assert value.tolist() == [26 + 1 + 5]
    value.backward()
    assert output.grad is not None
    assert output.grad.tolist() == [[[5, -1, 2, 0]]]


def test_no_gradient_pulls_the_worst_pixel_further_away() -> None:
    """With the threshold differentiated, forty pixels of error 9 would outvote the one of 10 that sets it."""
    output = torch.full((1, 1, 41), 10.0)
    output[0, 0, 0] = 11
    output.requires_grad_()
    BerHu()(output, torch.ones(1, 1, 41)).backward()
    assert output.grad is not None
    assert output.grad[0, 0, 0].item() == pytest.approx(5)


def test_right_depth_costs_nothing() -> None:
    target = torch.rand(2, 4, 4) + 1
    output = target.clone().requires_grad_()
    value = BerHu()(output, target)
    value.sum().backward()
    assert value.tolist() == [0, 0]
    assert output.grad is not None
    assert (output.grad == 0).all()
