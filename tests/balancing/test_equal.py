"""The plain sum."""

from __future__ import annotations

import torch

from segweave.balancing import METHODS
from segweave.balancing.balancer import Objective
from segweave.balancing.equal import Equal


def test_gradients_of_the_plain_sum() -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    losses = torch.stack([x[0] ** 2, x[0] * x[1]])
    balance = Equal(["a", "b"]).backward(Objective(("a", "b"), losses, 5 * x[1], scale=4.0))
    # d/dx (x0^2 + x0 x1 + 5 x1) = (2 x0 + x1, x0 + 5)
    assert x.grad is not None
    assert x.grad.tolist() == [4 * 7.0, 4 * 7.0]
    assert {task: weight.item() for task, weight in balance.weights.items()} == {"a": 1.0, "b": 1.0}


def test_nothing_to_learn_and_nothing_to_configure() -> None:
    assert METHODS.load("equal") is Equal
    assert METHODS.options("equal") == {"monitor": (bool, False)}
    assert not list(Equal(["a"]).parameters())


def test_an_effective_batch_without_labels() -> None:
    assert not Equal(["a"]).backward(Objective((), torch.zeros(0), torch.zeros(()))).weights
