"""GLS, against torchjd's gradient."""

from __future__ import annotations

import torch
from drive import TASKS, gradient, losses_of, step, values
from torchjd.scalarization import GeometricMean as Oracle

from segweave.balancing.geometric_mean import GeometricMean


def test_gradients_are_torchjds() -> None:
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    Oracle()(losses_of(x)).backward()
    torch.testing.assert_close(gradient(GeometricMean(TASKS))[0], x.grad)
    torch.testing.assert_close(gradient(GeometricMean(TASKS), shares=(0.25, 0.75))[0], x.grad)


def test_the_unit_of_a_loss_does_not_matter() -> None:
    one, other = step(GeometricMean(TASKS), values(1, 2, 3)), step(GeometricMean(TASKS), values(1000, 2, 3))
    scaled = one * torch.tensor([1.0, 2, 3]) / (other * torch.tensor([1000.0, 2, 3]))
    torch.testing.assert_close(scaled, scaled[:1].expand(3))
