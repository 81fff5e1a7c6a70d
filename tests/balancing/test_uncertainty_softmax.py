"""UW-SO, against its formula in NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drive import TASKS, gradient, losses_of, step, values

from segweave.balancing.uncertainty_softmax import UncertaintySoftmax
from segweave.errors import ConfigError


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_weights_are_those_of_the_formula(temperature: float) -> None:
    losses = np.array([0.5, 2.0, 0.125])
    powers = np.exp(1 / losses / temperature)
    found = step(UncertaintySoftmax(TASKS, temperature=temperature), values(*losses.tolist()))
    np.testing.assert_allclose(found.numpy(), powers / powers.sum(), rtol=1e-5)


def test_the_weights_are_not_differentiated() -> None:
    found, weights = gradient(UncertaintySoftmax(TASKS))
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    (weights * losses_of(x)).sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_a_temperature_of_0_is_an_error() -> None:
    with pytest.raises(ConfigError, match="temperature: found 0"):
        UncertaintySoftmax(TASKS, temperature=0.0)
