"""The seam between losses and gradients, against autograd on a small convolutional net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torchjd.aggregation import MGDAWeighting

from segweave.balancing.balancer import Balancer, GramianBalancer, JacobianBalancer, LossBalancer, Objective
from segweave.errors import ConfigError

TASKS = ("semantic", "depth")
FACTORS = (0.3, 1.7)


class Fixed(GramianBalancer):
    def weigh(self, gramian: Tensor, tasks: Sequence[str], losses: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        return gramian.new_tensor([dict(zip(TASKS, FACTORS, strict=True))[task] for task in tasks])


class FixedLoss(LossBalancer):
    def combine(
        self,
        losses: Tensor,
        tasks: Sequence[str],
        last: bool,  # noqa: ARG002
        whole: Tensor,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        weights = losses.new_tensor(FACTORS)[: len(tasks)]
        return (weights * losses).sum(), weights


class FixedRows(JacobianBalancer):
    def aggregate(self, rows: Tensor, tasks: Sequence[str], features: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        return rows.new_tensor(FACTORS) @ rows


class MinNorm(GramianBalancer):
    """Shortest vector in the hull of two gradients (Sener & Koltun 2018, section 3.2)."""

    def weigh(self, gramian: Tensor, tasks: Sequence[str], losses: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        (aa, ab), (_, bb) = gramian
        first = ((bb - ab) / (aa + bb - 2 * ab)).clamp(0, 1)
        return torch.stack([first, 1 - first])


class Net(nn.Module):
    """Two chained levels and two heads that read both, as all heads read the levels of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.heads = nn.ModuleDict({task: nn.Conv2d(9, 2, 1) for task in TASKS})

    def objective(self, chained: bool = True, seed: int = 1, **changes: Any) -> Objective:
        generator = torch.Generator().manual_seed(seed)
        images, target = torch.randn(2, 3, 6, 6, generator=generator), torch.randn(2, 2, 6, 6, generator=generator)
        low = torch.tanh(self.stem(images))
        high = torch.tanh(self.deep(low))
        joined = torch.cat([low, high], 1)
        semantic = (self.heads["semantic"](joined) - target).square().mean()
        depth = 3 * (self.heads["depth"](joined) + target).abs().mean()
        values: dict[str, Any] = {
            "tasks": TASKS,
            "losses": torch.stack([semantic, depth]),
            "regulariser": 0.1 * self.stem.weight.square().sum() + 0.01 * high.square().mean(),
            "common": [low, high] if chained else [joined],
            "shared": [*self.stem.parameters(), *self.deep.parameters()],
            "private": {task: list(head.parameters()) for task, head in self.heads.items()},
        }
        return Objective(**(values | changes))

    def grads(self) -> list[Tensor]:
        result = []
        for name, parameter in self.named_parameters():
            assert parameter.grad is not None, name
            result.append(parameter.grad.clone())
        self.zero_grad()
        return result


def expected(net: Net, head_factors: Sequence[float] = (1.0, 1.0)) -> list[Tensor]:
    """Shared parameters: the weighted sum; heads: their own loss; the regulariser as it is."""
    objective = net.objective()
    tensors, n = list(net.parameters()), len(objective.shared)

    def grad(output: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(output, tensors, retain_graph=True, materialize_grads=True))

    total = grad(objective.regulariser)
    for factor, own, loss in zip(FACTORS, head_factors, objective.losses, strict=True):
        total = [t + (factor if i < n else own) * g for i, (t, g) in enumerate(zip(total, grad(loss), strict=True))]
    return total


def close(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-5, atol=1e-6)


def rows(net: Net) -> Tensor:
    objective = net.objective()
    grads = [torch.autograd.grad(loss, objective.shared, retain_graph=True) for loss in objective.losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])


FEATURES, PARAMETERS, JACOBIAN = Fixed(TASKS, space="features"), Fixed(TASKS, space="parameters"), FixedRows(TASKS)
EVERY = pytest.mark.parametrize("balancer", [FEATURES, PARAMETERS, JACOBIAN, FixedLoss(TASKS)])


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize(
    ("balancer", "chained"), [(FEATURES, True), (FEATURES, False), (PARAMETERS, True), (JACOBIAN, True)]
)
def test_constant_weights_equal_the_weighted_sum(balancer: Balancer, chained: bool, scale: float) -> None:
    net = Net()
    wanted = expected(net)
    balance = balancer.backward(net.objective(chained, scale=scale))
    close([g / scale for g in net.grads()], wanted)
    assert not any(w.requires_grad or w.ndim for w in balance.weights.values())
    factors = dict.fromkeys(TASKS, 1.0) if balancer is JACOBIAN else dict(zip(TASKS, FACTORS, strict=True))
    assert {task: weight.item() for task, weight in balance.weights.items()} == pytest.approx(factors)


def test_a_loss_balancer_weighs_the_heads_too() -> None:
    net = Net()
    wanted = expected(net, FACTORS)
    assert FixedLoss(TASKS).backward(net.objective(scale=8.0)).gramian is None
    close([g / 8 for g in net.grads()], wanted)


@pytest.mark.parametrize("balancer", [FEATURES, PARAMETERS, JACOBIAN, FixedLoss(TASKS)])
def test_gradients_add_up_over_micro_batches(balancer: Balancer) -> None:
    net = Net()
    alone = []
    for seed in (1, 2):
        balancer.backward(net.objective(seed=seed))
        alone.append(net.grads())
    balancer.backward(net.objective(seed=1, last=False))
    balancer.backward(net.objective(seed=2))
    close(net.grads(), [a + b for a, b in zip(*alone, strict=True)])


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("balancer", [PARAMETERS, JACOBIAN])
def test_gramian_at_the_parameters(balancer: Balancer, scale: float) -> None:
    net = Net()
    jacobian = rows(net)
    torch.testing.assert_close(balancer.backward(net.objective(scale=scale)).gramian, jacobian @ jacobian.T)


def test_gramian_at_the_features_does_not_depend_on_how_the_cut_is_split() -> None:
    net = Net()
    objective = net.objective(chained=False)
    (cut,) = objective.common
    flat = torch.stack([torch.autograd.grad(x, cut, retain_graph=True)[0].flatten() for x in objective.losses])
    for chained in (True, False):
        gramian = FEATURES.backward(net.objective(chained, scale=16.0)).gramian
        torch.testing.assert_close(gramian, flat @ flat.T)


def test_auto_is_features_where_there_is_a_cut() -> None:
    net, auto = Net(), Fixed(TASKS)
    cut, bare = auto.backward(net.objective()).gramian, auto.backward(net.objective(common=[])).gramian
    assert torch.equal(cut, FEATURES.backward(net.objective()).gramian)
    assert torch.equal(bare, PARAMETERS.backward(net.objective()).gramian)
    assert not torch.allclose(cut, bare)


def test_an_unknown_space_and_a_missing_cut_are_errors() -> None:
    # the shape checker of the tests sees the first before segweave does
    with pytest.raises((ConfigError, TypeCheckError), match="space"):
        Fixed(TASKS, space="feature")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="'features' needs features that all heads read"):
        FEATURES.backward(Net().objective(common=[]))


def test_min_norm_of_two_tasks() -> None:
    net = Net()
    jacobian = rows(net)
    balance = MinNorm(TASKS, space="parameters").backward(net.objective(regulariser=torch.zeros(())))
    found = torch.cat([p.grad.flatten() for p in net.objective().shared if p.grad is not None])
    # the point of the segment nearest to 0, by brute force and by torchjd
    steps = torch.linspace(0, 1, 10001)[:, None]
    lengths = (steps * jacobian[0] + (1 - steps) * jacobian[1]).norm(dim=1)
    assert found.norm().item() == pytest.approx(lengths.min().item(), rel=1e-5)
    weights = torch.stack(list(balance.weights.values()))
    torch.testing.assert_close(weights, MGDAWeighting(1e-6, 1000)(jacobian @ jacobian.T), atol=2e-3, rtol=0)
    assert 0 < weights[0] < 1


@pytest.mark.parametrize(("balancer", "factor"), [(FEATURES, 2), (PARAMETERS, 4)])
def test_the_gramian_of_two_processes(balancer: Balancer, factor: int) -> None:
    """Both have the same images. Their features are different rows, |a|^2 + |a|^2; their parameters one, |a + a|^2."""
    net = Net()
    once = balancer.backward(net.objective()).gramian
    assert once is not None
    net.zero_grad()
    wanted = expected(net)
    gramian = balancer.backward(net.objective(reduce=lambda t: 2 * t)).gramian
    torch.testing.assert_close(gramian, factor * once)
    close(net.grads(), wanted)


@EVERY
def test_losses_that_need_no_gradient(balancer: Balancer) -> None:
    net = Net()
    balancer.backward(net.objective(losses=torch.zeros(2), last=False))
    wanted = torch.autograd.grad(net.objective().regulariser, net.stem.weight)[0]
    torch.testing.assert_close(net.stem.weight.grad, wanted)
    net.zero_grad()
    balance = balancer.backward(net.objective(losses=torch.zeros(2), regulariser=torch.zeros(())))
    # at the features a task without a gradient is not weighed
    assert set(balance.weights) == (set() if balancer is FEATURES else set(TASKS))
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


@EVERY
def test_no_task_has_a_label(balancer: Balancer) -> None:
    net = Net()
    assert not balancer.backward(net.objective(tasks=(), losses=torch.zeros(0))).weights
    wanted = torch.autograd.grad(net.objective().regulariser, net.stem.weight)[0]
    torch.testing.assert_close(net.stem.weight.grad, wanted)


@EVERY
def test_frozen_parameters_stay_without_gradient(balancer: Balancer) -> None:
    net = Net()
    net.stem.requires_grad_(False)
    net.heads["depth"].requires_grad_(False)
    objective = net.objective()
    total = (torch.tensor(FACTORS) * objective.losses).sum() + objective.regulariser
    (wanted,) = torch.autograd.grad(total, net.deep.weight)
    balancer.backward(net.objective())
    assert net.stem.weight.grad is None
    assert net.heads["depth"].weight.grad is None
    close([net.deep.weight.grad], [wanted])


def test_hooks_are_gone_and_rollback_is_safe() -> None:
    objective = Net().objective()
    FEATURES.backward(objective)
    assert not any(tensor._backward_hooks for tensor in objective.common)
    FEATURES.rollback()
    assert FEATURES.memory.get_extra_state()["values"] == {}
