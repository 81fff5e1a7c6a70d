"""STCH, its warm-up against the formula and its smooth maximum against torchjd's."""

from __future__ import annotations

import pytest
import torch
from drive import TASKS, gradient, losses_of, step, values
from torchjd.scalarization import STCH as Oracle

from segweave.balancing.stch import STCH
from segweave.errors import ConfigError

NADIR = torch.tensor([2.0, 0.5, 3.0])


def warmed(mu: float) -> STCH:
    balancer = STCH(TASKS, mu=mu, warmup_epochs=1)
    step(balancer, values(9, 9, 9), epoch=0)
    for factor in (0.5, 1.5):
        step(balancer, (factor * NADIR).requires_grad_() * 1.0, epoch=1, shares=(0.5, 0.5))
    return balancer


@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("shares", [(1.0,), (0.25, 0.75)])
def test_gradients_after_the_warm_up_are_torchjds_of_the_relative_logarithms(mu: float, shares: tuple) -> None:
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    (3 * Oracle(mu, torch.ones(3))(torch.log(losses_of(x) / NADIR))).backward()
    torch.testing.assert_close(gradient(warmed(mu), epoch=2, shares=shares)[0], x.grad, rtol=1e-5, atol=1e-6)


def test_the_warm_up_minimises_the_sum_of_logarithms() -> None:
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    losses_of(x).log().sum().backward()
    torch.testing.assert_close(gradient(STCH(TASKS))[0], x.grad)
    torch.testing.assert_close(gradient(STCH(TASKS), epoch=4)[0], x.grad)


def test_the_unit_of_a_loss_does_not_matter() -> None:
    unit = torch.tensor([1000.0, 1.0, 0.01])
    shares = []
    for factor in (torch.ones(3), unit):
        balancer = STCH(TASKS, mu=0.5, warmup_epochs=0)
        step(balancer, (factor * NADIR).requires_grad_() * 1.0, epoch=0)
        losses = factor * torch.tensor([1.0, 0.4, 0.7])
        shares.append(step(balancer, losses.clone().requires_grad_() * 1.0, epoch=1) * losses)
    torch.testing.assert_close(shares[0], shares[1])


def test_a_task_that_had_no_label_then_takes_its_first_loss() -> None:
    balancer = STCH(TASKS, warmup_epochs=0)
    two = ("semantic", "depth")
    step(balancer, values(1, 2), two, epoch=0)
    weights = step(balancer, values(1, 2, 5), epoch=1)
    torch.testing.assert_close(weights, 1 / torch.tensor([1.0, 2.0, 5.0]))
    # now at half its level, it has half the share of the others: 3 softmax(log(1, 1, 1/2)) / L
    weights = step(balancer, values(1, 2, 2.5), epoch=1)
    torch.testing.assert_close(weights, 3 * torch.tensor([0.4, 0.4, 0.2]) / torch.tensor([1.0, 2.0, 2.5]))


@pytest.mark.parametrize(("option", "value"), [("mu", 0.0), ("warmup_epochs", -1)])
def test_options_are_checked(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        STCH(TASKS, **{option: value})  # pyright: ignore
