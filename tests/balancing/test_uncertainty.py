"""Uncertainty weighting, against torchjd's."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor
from torchjd.scalarization import UW

from segweave.balancing.balancer import Objective
from segweave.balancing.uncertainty import Uncertainty

TASKS = ("semantic", "depth", "edges")
START = torch.tensor([0.4, -1.3, 2.0])
NOTHING = torch.zeros(())


def at_start() -> Uncertainty:
    balancer = Uncertainty(TASKS)
    for task, value in zip(TASKS, START, strict=True):
        torch.nn.init.constant_(balancer.log_variance[task], value.item())
    return balancer


def gradients(balancer: Uncertainty) -> list[float | None]:
    variables = [balancer.log_variance[task] for task in TASKS]
    return [None if p.grad is None else p.grad.item() for p in variables]


def losses_of(x: Tensor) -> Tensor:
    return torch.stack([x.square().sum(), (x[0] * x[1]).exp(), x.abs().sum()])


def test_values_and_gradients_are_torchjds() -> None:
    oracle = UW(3)
    torch.nn.init.zeros_(oracle.log_var).data.copy_(START)
    theirs, ours = (torch.tensor([0.5, -1.5], requires_grad=True) for _ in range(2))
    total = oracle(losses_of(theirs))
    total.backward()

    balancer = at_start()
    torch.testing.assert_close(balancer.combine(losses_of(ours), TASKS, True, losses_of(ours).detach())[0], total)
    balance = balancer.backward(Objective(TASKS, losses_of(ours), NOTHING))
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert oracle.log_var.grad is not None
    assert gradients(balancer) == pytest.approx(oracle.log_var.grad.tolist())
    torch.testing.assert_close(torch.stack(list(balance.weights.values())), torch.exp(-START) / 2)


def test_it_starts_at_half_and_is_at_rest_at_the_log_of_the_loss() -> None:
    balancer = Uncertainty(TASKS)
    assert balancer.combine(torch.ones(3), TASKS, True, torch.ones(3))[1].tolist() == [0.5] * 3
    # the derivative (1 - exp(-s) L) / 2 is 0 at s = ln L
    balancer = at_start()
    balancer.backward(Objective(TASKS, START.exp(), NOTHING))
    assert gradients(balancer) == pytest.approx([0.0] * 3, abs=1e-6)


def test_accumulation_equals_one_batch() -> None:
    parts = [torch.tensor([0.3, 1.0, 0.0]), torch.tensor([0.0, 2.0, 0.7]), torch.tensor([0.5, 0.0, 0.0])]
    whole, split = at_start(), at_start()
    whole.backward(Objective(TASKS, sum(parts, torch.zeros(3)), NOTHING))
    for position, part in enumerate(parts):
        split.backward(Objective(TASKS, part, NOTHING, last=position == len(parts) - 1))
    assert gradients(split) == pytest.approx(gradients(whole), abs=1e-6)


def test_an_absent_task_is_untouched_even_with_momentum() -> None:
    balancer = at_start()
    optimizer = torch.optim.AdamW(balancer.parameters(), lr=0.1, weight_decay=0.1)
    for tasks in (TASKS, ("edges", "semantic")):
        before = balancer.log_variance["depth"].item()
        optimizer.zero_grad(set_to_none=True)
        balance = balancer.backward(Objective(tasks, torch.rand(len(tasks)), NOTHING))
        assert set(balance.weights) == set(tasks)
        optimizer.step()
    assert balancer.log_variance["depth"].item() == before
    assert balancer.log_variance["depth"].grad is None
    weights = at_start().combine(torch.ones(2), ("edges", "depth"), True, torch.ones(2))[1]
    torch.testing.assert_close(weights, (-START[[2, 1]]).exp() / 2)


def test_micro_batches_without_a_label() -> None:
    balancer = at_start()
    balancer.backward(Objective(TASKS, torch.zeros(3), NOTHING, last=False))
    assert gradients(balancer) == [0.0] * 3
    balancer.backward(Objective(TASKS, torch.zeros(3), NOTHING))
    assert gradients(balancer) == [0.5] * 3
    balancer.zero_grad()
    assert not balancer.backward(Objective((), torch.zeros(0), NOTHING)).weights
    assert gradients(balancer) == [None] * 3


def test_the_state_goes_by_task_name_bit_for_bit() -> None:
    balancer, other = at_start(), Uncertainty(TASKS[::-1])
    buffer = io.BytesIO()
    torch.save(balancer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for task in TASKS:
        assert torch.equal(other.log_variance[task], balancer.log_variance[task])
    with pytest.raises(RuntimeError, match=r"log_variance\.edges"):
        Uncertainty(TASKS[:2]).load_state_dict(balancer.state_dict())
