"""FAMO, against torchjd's over steps with a second forward pass."""

from __future__ import annotations

import pytest
import torch
from drive import TASKS, losses_of, step, values
from torchjd.scalarization import FAMO as Oracle

from segweave.balancing.famo import FAMO
from segweave.errors import ConfigError


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5)])
def test_a_descent_is_torchjds(shares: tuple[float, ...]) -> None:
    ours, theirs = FAMO(TASKS, lr=0.1, weight_decay=0.01), Oracle(3, lr=0.1, weight_decay=0.01)
    x, y = (torch.tensor([1.5, -0.5], requires_grad=True) for _ in range(2))
    for _ in range(12):
        x.grad = y.grad = None
        losses = losses_of(y)
        theirs(losses).backward()
        before = losses_of(x)
        step(ours, before, shares=shares)
        assert x.grad is not None
        assert y.grad is not None
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            x -= 0.05 * x.grad
            y -= 0.05 * y.grad
        again = losses_of(x).detach()
        ours.after(TASKS, lambda again=again: again)
        theirs.update(losses_of(y).detach())
    found = ours.memory.stack(TASKS, torch.zeros(()), "w")
    torch.testing.assert_close(found, theirs._w.detach(), rtol=1e-4, atol=1e-5)
    assert found.abs().max() > 0.1


def test_the_weighted_gradients_are_a_convex_combination() -> None:
    losses = torch.tensor([1.0, 20.0, 0.1])
    weights = step(FAMO(TASKS), losses.clone().requires_grad_() * 1.0)
    assert weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(weights * losses, (weights * losses)[:1].expand(3))


def test_the_unit_of_a_loss_does_not_matter() -> None:
    shares = []
    for unit in (torch.ones(3), torch.tensor([1000.0, 1.0, 0.01])):
        balancer = FAMO(TASKS, lr=0.3)
        for fallen in ([0.5, 0.9, 1.2], [0.8, 0.7, 0.6]):
            losses = unit * torch.tensor([1.0, 2.0, 3.0])
            weights = step(balancer, losses.clone().requires_grad_() * 1.0, after=losses * torch.tensor(fallen))
        shares.append(weights * losses / (weights * losses).sum())
    assert shares[0].max() - shares[0].min() > 0.1
    torch.testing.assert_close(shares[0], shares[1], rtol=1e-4, atol=1e-5)


def test_the_inexact_variant_takes_the_next_losses_and_says_so() -> None:
    exact, inexact = FAMO(TASKS), FAMO(TASKS, exact=False)
    assert (exact.label, inexact.label) == ("famo", "famo (next-step loss)")
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.9, 3.0])
    step(exact, values(*first), after=second)
    step(inexact, values(*first), after=torch.full((3,), 1e6))
    wanted, found = step(exact, values(*second)), step(inexact, values(*second), shares=(0.5, 0.5))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(wanted, step(FAMO(TASKS), values(*second)))


def test_an_absent_task_keeps_what_it_learnt() -> None:
    balancer = FAMO(TASKS, lr=0.1)
    step(balancer, values(1, 1, 1), after=torch.tensor([0.5, 1.0, 2.0]))
    held = {kind: balancer.memory.get(f"{kind}/depth", torch.zeros(())) for kind in ("w", "mean", "steps")}
    two = ("edges", "semantic")
    step(balancer, values(1, 1), two, after=torch.tensor([0.1, 1.0]))
    assert all(torch.equal(balancer.memory.get(f"{kind}/depth", torch.zeros(())), v) for kind, v in held.items())
    assert balancer.memory.get("steps/edges", torch.zeros(())) == 2


def test_a_measurement_that_is_not_finite_moves_nothing() -> None:
    balancer = FAMO(TASKS)
    step(balancer, values(1, 1, 1), after=torch.tensor([0.5, 1.0, 2.0]))
    before = balancer.memory.stack(TASKS, torch.zeros(()), "w")
    step(balancer, values(1, 1, 1), after=torch.tensor([0.5, torch.nan, torch.inf]))
    assert torch.equal(balancer.memory.stack(TASKS, torch.zeros(()), "w"), before)


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"balancing\.lr: found -1"):
        FAMO(TASKS, lr=-1.0)
