"""LDC-MTL, against its objective written out and differentiated by torch in float64."""

from __future__ import annotations

import pytest
import torch
from drive import TASKS, losses_of, step, values
from torch import Tensor

from segweave.balancing.ldc_mtl import LDCMTL
from segweave.errors import ConfigError

FIRST = torch.tensor([4.0, 1.0, 2.0])
LOGITS = torch.tensor([0.3, -0.8, 0.1])
NAMES = ("depth", "edges", "semantic")  # neighbours are in this order


def objective(losses: dict[str, Tensor], logits: dict[str, Tensor], discrepancy: float) -> Tensor:
    first = dict(zip(TASKS, FIRST.double(), strict=True))
    least = min(first.values())
    shares = torch.softmax(torch.stack([logits[name] for name in NAMES]), 0)
    scaled = torch.stack([losses[name] / (first[name] / least) for name in NAMES]) * shares
    return scaled.sum() + discrepancy * (scaled[0] - scaled[1]).abs() + discrepancy * (scaled[1] - scaled[2]).abs()


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.25, 0.25)])
@pytest.mark.parametrize("discrepancy", [0.0, 0.05, 0.5])
def test_gradients_are_those_of_the_objective(shares: tuple[float, ...], discrepancy: float) -> None:
    balancer = LDCMTL(TASKS, discrepancy=discrepancy)
    step(balancer, FIRST.clone().requires_grad_() * 1.0)
    balancer.zero_grad()
    for task, value in zip(TASKS, LOGITS.tolist(), strict=True):
        torch.nn.init.constant_(balancer.logits[task], value)
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    step(balancer, losses_of(x), shares=shares)

    y = torch.tensor([0.5, -1.5], dtype=torch.float64, requires_grad=True)
    logits = {task: value.double().requires_grad_() for task, value in zip(TASKS, LOGITS, strict=True)}
    objective(dict(zip(TASKS, losses_of(y), strict=True)), logits, discrepancy).backward()
    assert y.grad is not None
    torch.testing.assert_close(x.grad, y.grad.float(), rtol=1e-5, atol=1e-6)
    for task in TASKS:
        wanted = logits[task].grad
        assert wanted is not None
        torch.testing.assert_close(balancer.logits[task].grad, wanted.float(), rtol=1e-4, atol=1e-6)


def test_an_absent_task_is_untouched() -> None:
    balancer = LDCMTL(TASKS)
    weights = step(balancer, values(1, 2), ("edges", "semantic"))
    assert balancer.logits["depth"].grad is None
    assert "first/depth" not in balancer.memory
    assert weights.isfinite().all()


def test_a_lambda_below_0_is_an_error() -> None:
    with pytest.raises(ConfigError, match="discrepancy"):
        LDCMTL(TASKS, discrepancy=-1.0)
