"""DWA, against torchjd's over epochs."""

from __future__ import annotations

import pytest
import torch
from drive import TASKS, step
from torchjd.scalarization import DWA as Oracle

from segweave.balancing.dwa import DWA
from segweave.errors import ConfigError


def test_weights_are_torchjds_over_four_epochs() -> None:
    ours, theirs = DWA(TASKS, temperature=1.5), Oracle(1.5)
    draw = torch.Generator().manual_seed(0)
    for epoch in range(4):
        for _ in range(3):
            losses = torch.rand(3, generator=draw) + 0.1
            one, two = losses.clone().requires_grad_(), losses.clone().requires_grad_()
            weights = step(ours, one * 1.0, epoch=epoch)
            theirs(two).backward()
            torch.testing.assert_close(weights, two.grad)
            assert epoch > 1 or weights.tolist() == [1.0] * 3
        theirs.step()


def test_a_run_resumed_within_an_epoch_goes_on_alike() -> None:
    balancer, fresh = DWA(TASKS), DWA(TASKS)
    draw = torch.Generator().manual_seed(1)
    losses = [torch.rand(3, generator=draw) + 0.1 for _ in range(9)]
    for batch in range(5):
        step(balancer, losses[batch].requires_grad_() * 1.0, epoch=batch // 3)
    fresh.load_state_dict(balancer.state_dict())
    for batch in range(5, 9):
        one, other = (step(b, losses[batch].requires_grad_() * 1.0, epoch=batch // 3) for b in (balancer, fresh))
        assert torch.equal(one, other)
    # the means of the whole epochs, of which the second was interrupted
    older, newer = (torch.stack(losses[i : i + 3]).detach().mean(0) for i in (0, 3))
    torch.testing.assert_close(one, 3 * torch.softmax(newer / older / 2, 0))


def test_the_means_are_those_of_effective_batches() -> None:
    whole, split = DWA(TASKS), DWA(TASKS)
    for epoch in range(3):
        losses = torch.tensor([1.0, 2.0, 3.0]) / (epoch + torch.tensor([1.0, 2.0, 3.0]))
        one = step(whole, losses.clone().requires_grad_() * 1.0, epoch=epoch)
        two = step(split, losses.clone().requires_grad_() * 1.0, epoch=epoch, shares=(0.25, 0.5, 0.25))
        torch.testing.assert_close(one, two)
    assert one.tolist() != [1.0] * 3


def test_the_unit_of_a_loss_does_not_matter() -> None:
    found = []
    for unit in (torch.ones(3), torch.tensor([1000.0, 1.0, 0.01])):
        balancer = DWA(TASKS)
        for epoch in range(3):
            losses = unit * torch.tensor([0.9, 0.5, 0.7]) ** epoch
            weights = step(balancer, losses.requires_grad_() * 1.0, epoch=epoch)
        found.append(weights)
    torch.testing.assert_close(found[0], found[1])


def test_a_task_that_comes_late_weighs_1_until_it_has_two_epochs() -> None:
    balancer = DWA(TASKS)
    present = [("semantic", "depth"), ("semantic", "depth"), TASKS, TASKS, TASKS]
    factors = {"semantic": 0.9, "depth": 0.5, "edges": 0.7}
    seen = []
    for epoch, tasks in enumerate(present):
        losses = torch.tensor([factors[task] ** epoch for task in tasks], requires_grad=True)
        seen.append(dict(zip(tasks, step(balancer, losses * 1.0, tasks, epoch=epoch).tolist(), strict=True)))
    assert seen[2]["edges"] == seen[3]["edges"] == 1.0
    assert seen[2]["semantic"] + seen[2]["depth"] == pytest.approx(2)
    rates = torch.tensor([0.9, 0.5, 0.7])
    torch.testing.assert_close(torch.tensor(list(seen[4].values())), 3 * torch.softmax(rates / 2, 0))


def test_a_temperature_of_0_is_an_error() -> None:
    with pytest.raises(ConfigError, match="temperature: found 0"):
        DWA(TASKS, temperature=0.0)
