"""The seam between losses and gradients, against explicit gradients and TorchJD's uncertainty weighting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segweave.balancing.balancer import GramianBalancer, JacobianBalancer, Objective
from segweave.balancing.equal import Equal
from segweave.balancing.uncertainty import Uncertainty


class Fixed(GramianBalancer):
    def weigh(self, gramian: torch.Tensor) -> torch.Tensor:
        self.seen = gramian
        return torch.tensor([0.3, 2.0])


class MeanGradient(JacobianBalancer):
    def aggregate(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.mean(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(4, 5)
        self.heads = nn.ModuleDict({"a": nn.Linear(5, 1), "b": nn.Linear(5, 2)})

    def objective(self, scale: float = 1.0) -> Objective:
        torch.manual_seed(1)
        features = self.trunk(torch.randn(6, 4)).tanh()
        losses = torch.stack([self.heads[k](features).square().mean() for k in ("a", "b")])
        private = {k: list(head.parameters()) for k, head in self.heads.items()}
        regulariser = 0.1 * self.trunk.weight.square().sum()
        return Objective(("a", "b"), losses, regulariser, [features], list(self.trunk.parameters()), private, scale)

    def grads(self) -> list[torch.Tensor]:
        return [p.grad.clone() for p in self.parameters() if p.grad is not None]


def expected(trunk_weights: list[float]) -> list[torch.Tensor]:
    net = Net()
    objective = net.objective()
    shared = torch.autograd.grad(
        (torch.tensor(trunk_weights) * objective.losses).sum() + objective.regulariser,
        objective.shared,
        retain_graph=True,
    )
    heads = [
        g
        for i, k in enumerate(("a", "b"))
        for g in torch.autograd.grad(objective.losses[i], objective.private[k], retain_graph=True)
    ]
    return [*shared, *heads]


@pytest.mark.parametrize("space", ["auto", "features", "parameters"])
@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_gramian_balancer_is_the_explicit_weighted_sum(space: str, scale: float) -> None:
    net = Net()
    balancer = Fixed(["a", "b"], space=space)
    balance = balancer.backward(net.objective(scale))
    for ours, theirs in zip(net.grads(), expected([0.3, 2.0]), strict=True):
        torch.testing.assert_close(ours / scale, theirs)
    unscaled = Fixed(["a", "b"], space=space)
    unscaled.backward(Net().objective())
    torch.testing.assert_close(balancer.seen, unscaled.seen, rtol=1e-4, atol=1e-7)
    assert balance.weights["b"] == 2.0


def test_jacobian_balancer_and_equal() -> None:
    net = Net()
    MeanGradient(["a", "b"]).backward(net.objective())
    for ours, theirs in zip(net.grads(), expected([0.5, 0.5]), strict=True):
        torch.testing.assert_close(ours, theirs)
    net = Net()
    Equal(["a", "b"]).backward(net.objective())
    for ours, theirs in zip(net.grads(), expected([1.0, 1.0]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_uncertainty_is_torchjds_and_keeps_absent_tasks() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs = scalarization.UW(2)
    ours = Uncertainty(["a", "never", "b"])
    values = torch.tensor([1.7, 0.4])
    for module in (ours, theirs):
        with torch.no_grad():
            first, second = (ours.log_variance["a"], ours.log_variance["b"]) if module is ours else theirs.log_var
            first.fill_(0.3)
            second.fill_(-0.8)
    theirs(values).backward()
    # the two halves of an accumulated batch give what one batch gives
    for half, last in ((0.25, False), (0.75, True)):
        ours.backward(Objective(("a", "b"), half * values, torch.zeros(()), last=last))
    grads = torch.stack([ours.log_variance[k].grad for k in ("a", "b")])
    torch.testing.assert_close(grads, theirs.log_var.grad)
    assert ours.log_variance["never"].grad is None
    copy = Uncertainty(["a", "never", "b"])
    copy.load_state_dict(ours.state_dict())
    assert all(torch.equal(v, copy.state_dict()[k]) for k, v in ours.state_dict().items())
