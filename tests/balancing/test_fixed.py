"""Constant weights."""

from __future__ import annotations

import pytest
import torch
from drive import TASKS, gradient, losses_of
from torchjd.scalarization import Constant

from segweave.balancing.fixed import Fixed
from segweave.errors import ConfigError


def test_gradients_are_torchjds_and_a_task_that_is_not_named_weighs_1() -> None:
    found, weights = gradient(Fixed(TASKS, weights={"depth": 0.25, "edges": 3}))
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    Constant(torch.tensor([1.0, 0.25, 3.0]))(losses_of(x)).backward()
    torch.testing.assert_close(found, x.grad)
    assert weights.tolist() == [1.0, 0.25, 3.0]


def test_weights_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"balancing\.weights\.dept: no such task; did you mean .*depth"):
        Fixed(TASKS, weights={"dept": 1.0})
    with pytest.raises(ConfigError, match=r"balancing\.weights\.depth: found -1"):
        Fixed(TASKS, weights={"depth": -1.0})
