"""IMTL-L, against torchjd's."""

from __future__ import annotations

import pytest
import torch
from drive import TASKS, gradient, losses_of, step, values
from torchjd.scalarization import IMTLL as Oracle

from segweave.balancing.imtl_l import IMTLL

START = [0.4, -1.3, 2.0]


def at_start() -> IMTLL:
    balancer = IMTLL(TASKS)
    for task, value in zip(TASKS, START, strict=True):
        torch.nn.init.constant_(balancer.log_scale[task], value)
    return balancer


def own(balancer: IMTLL) -> list[float | None]:
    variables = [balancer.log_scale[task] for task in TASKS]
    return [None if p.grad is None else p.grad.item() for p in variables]


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.25, 0.25)])
def test_gradients_are_torchjds(shares: tuple[float, ...]) -> None:
    oracle, balancer = Oracle(3), at_start()
    oracle.log_scale.data.copy_(torch.tensor(START))
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    oracle(losses_of(x)).backward()
    found, weights = gradient(balancer, shares=shares)
    torch.testing.assert_close(found, x.grad)
    assert oracle.log_scale.grad is not None
    assert own(balancer) == pytest.approx(oracle.log_scale.grad.tolist(), rel=1e-5)
    torch.testing.assert_close(weights, torch.tensor(START).exp())


def test_it_starts_at_the_plain_sum_and_rests_where_scaled_losses_are_1() -> None:
    assert step(IMTLL(TASKS), values(3, 2, 1)).tolist() == [1.0] * 3
    balancer = at_start()
    step(balancer, torch.tensor(START).neg().exp().requires_grad_() * 1.0)
    assert own(balancer) == pytest.approx([0.0] * 3, abs=1e-6)


def test_an_absent_task_is_untouched() -> None:
    balancer = at_start()
    step(balancer, values(1, 2), ("edges", "semantic"))
    assert balancer.log_scale["depth"].grad is None
