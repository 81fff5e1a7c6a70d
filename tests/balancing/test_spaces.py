"""Where gradients are compared: what `auto` chooses, and that every space is what it says, against plain autograd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from test_balancer import TASKS, Fixed, FixedLoss, Net, close
from torch import Tensor

from segweave.balancing.balancer import (
    Balance,
    Balancer,
    GramianBalancer,
    JacobianBalancer,
    LossBalancer,
    Objective,
    RowBalancer,
    cosines,
)
from segweave.balancing.equal import Equal
from segweave.errors import ConfigError

NONE: Mapping[str, Tensor] = {}


def rows(first: Sequence[int], second: Sequence[int]) -> dict[str, Tensor]:
    return {TASKS[0]: torch.tensor(first, dtype=torch.int64), TASKS[1]: torch.tensor(second, dtype=torch.int64)}


class ByLength(GramianBalancer):
    """Weights that depend on the Gramian, so that a wrong one shows."""

    def weigh(self, gramian: Tensor, tasks: Sequence[str], losses: Tensor, last: bool) -> Tensor:
        self.seen = (tuple(tasks), losses, last, gramian)
        return 1 / (1 + gramian.sum(1).abs())


class RowsByLength(RowBalancer):
    def weigh(self, rows: Tensor, tasks: Sequence[str], losses: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        return 1 / (1 + (rows @ rows.T).sum(1).abs())


class Doubling(RowsByLength):
    """Mixes something else than the rows of the batch."""

    def track(self, rows: Tensor, tasks: Sequence[str], losses: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        return 2 * rows


class Signs(JacobianBalancer):
    """Coordinate by coordinate, in any space."""

    refuses: Mapping[str, str] = {"last": "no weights"}  # type: ignore[misc]

    def aggregate(self, rows: Tensor, tasks: Sequence[str], features: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        return rows.sign().sum(0) * rows.abs().max(0).values


def explicit(objectives: Sequence[Objective], where: str = "shared") -> tuple[Tensor, list[list[Tensor]]]:
    """Gramian of the summed task gradients at some parameters, and the summed gradients at all shared ones."""
    each = []
    for place in range(len(TASKS)):
        parts = [torch.autograd.grad(o.losses[place], o.shared, retain_graph=True) for o in objectives]
        each.append([torch.stack(column).sum(0) for column in zip(*parts, strict=True)])
    chosen = {id(p) for p in getattr(objectives[0], where)}
    flat = torch.stack(
        [
            torch.cat([g.flatten() for g, p in zip(row, objectives[0].shared, strict=True) if id(p) in chosen])
            for row in each
        ]
    )
    return flat @ flat.T, each


def mixture(weights: Tensor, each: list[list[Tensor]], objectives: Sequence[Objective]) -> list[Tensor]:
    mixed = [sum(w * g for w, g in zip(weights, column, strict=True)) for column in zip(*each, strict=True)]
    for objective in objectives:
        own = torch.autograd.grad(
            objective.regulariser, objective.shared, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        mixed = [m + g for m, g in zip(mixed, own, strict=True)]
    return mixed  # type: ignore[return-value]


def shared_grads(net: Net) -> list[Tensor]:
    return net.grads()[:4]


@pytest.mark.parametrize("scale", [1.0, 256.0])
@pytest.mark.parametrize("make", [ByLength, RowsByLength])
def test_parameters_with_accumulation_is_the_effective_batch(make: Any, scale: float) -> None:
    net, balancer = Net(), make(TASKS, space="parameters")
    objectives = [net.objective(seed=s) for s in (1, 2, 3)]
    gramian, each = explicit(objectives)
    wanted = mixture(1 / (1 + gramian.sum(1).abs()), each, objectives)
    for seed in (1, 2):
        balance = balancer.backward(net.objective(seed=seed, last=False, scale=scale))
        assert (balance.weights, balance.gramian) == ({}, None)
        assert net.heads["depth"].weight.grad is not None
    balance = balancer.backward(net.objective(seed=3, scale=scale))
    torch.testing.assert_close(balance.gramian, gramian, rtol=1e-4, atol=1e-6)
    close([g / scale for g in shared_grads(net)], wanted)


@pytest.mark.parametrize("chunk", [1, 40, 10**6])
def test_chunks_change_nothing(chunk: int) -> None:
    one, other = Net(), Net()
    whole = ByLength(TASKS, space="parameters").backward(one.objective(scale=8.0))
    parts = ByLength(TASKS, space="parameters", chunk=chunk).backward(other.objective(scale=8.0))
    torch.testing.assert_close(parts.gramian, whole.gramian)
    close(one.grads(), other.grads())


def test_chunks_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"balancing\.chunk: found 0 with space 'parameters'"):
        ByLength(TASKS, space="parameters", chunk=0)
    with pytest.raises(ConfigError, match=r"balancing\.chunk: found 9 with space 'features'"):
        ByLength(TASKS, space="features", chunk=9)
    balancer = ByLength(TASKS, space="parameters", chunk=9)
    with pytest.raises(ConfigError, match=r"expected train\.accumulate: 1"):
        balancer.backward(Net().objective(last=False))


@pytest.mark.parametrize("make", [ByLength, RowsByLength])
def test_last_takes_the_gramian_there_and_mixes_everywhere(make: Any) -> None:
    net = Net()
    closing = [net.deep.weight, net.deep.bias]
    objective = net.objective(closing=closing)
    gramian, each = explicit([objective], "closing")
    wanted = mixture(1 / (1 + gramian.sum(1).abs()), each, [objective])
    heads = [
        torch.autograd.grad(loss, net.heads[t].weight, retain_graph=True)[0]
        for t, loss in zip(TASKS, objective.losses, strict=True)
    ]
    balance = make(TASKS, space="last").backward(net.objective(closing=closing, scale=4.0))
    torch.testing.assert_close(balance.gramian, gramian)
    found = [g / 4 for g in net.grads()]
    close(found[:4], wanted)
    close([found[4], found[6]], heads)


def test_rows_that_are_tracked_are_mixed_at_the_last_layer_only() -> None:
    net = Net()
    closing = [net.deep.weight]
    silent = torch.zeros(())
    objective = net.objective(closing=closing, regulariser=silent)
    gramian, each = explicit([objective], "closing")
    weights = 1 / (1 + (4 * gramian).sum(1).abs())
    wanted = mixture(weights, each, [])
    wanted[2] = 2 * wanted[2]  # the last layer's weight
    Doubling(TASKS, space="last").backward(net.objective(closing=closing, regulariser=silent, scale=4.0))
    close([g / 4 for g in shared_grads(net)], wanted)


def test_coordinates_at_the_features_are_those_of_the_feature_jacobian() -> None:
    net = Net()
    objective = net.objective(chained=False, regulariser=torch.zeros(()))
    (cut,) = objective.common
    flat = torch.stack([torch.autograd.grad(x, cut, retain_graph=True)[0].flatten() for x in objective.losses])
    mixed = flat.sign().sum(0) * flat.abs().max(0).values
    wanted = torch.autograd.grad(cut, objective.shared, mixed.view_as(cut))
    Signs(TASKS, space="features").backward(net.objective(chained=False, regulariser=torch.zeros(()), scale=4.0))
    close([g / 4 for g in shared_grads(net)], wanted)


@pytest.mark.parametrize(
    ("labelled", "space", "share"),
    [
        ({}, "features", 1.0),
        (rows([0, 1, 2, 3], [0, 1, 2, 3]), "features", 1.0),
        (rows([0, 1, 2], [1, 2, 3]), "features", 0.5),
        (rows([0, 1, 2, 3], [3]), "parameters", 0.25),
        (rows([0, 1], [2, 3]), "parameters", 0.0),
    ],
)
def test_auto_needs_half_of_the_images_in_common(labelled: dict[str, Tensor], space: str, share: float) -> None:
    balancer = ByLength(TASKS)
    balance = balancer.backward(Net().objective(rows=labelled))
    assert (balance.space, bool(balancer.notes)) == (space, space == "parameters")
    assert balance.overlap is not None
    assert balance.overlap[0, 1].item() == pytest.approx(share)
    assert balance.overlap.diagonal().tolist() == [1.0, 1.0]


def test_auto_says_once_why_it_is_at_the_parameters() -> None:
    balancer = ByLength(TASKS)
    for _ in range(3):
        balancer.backward(Net().objective(common=[]))
    (note,) = balancer.notes
    assert "auto" in note
    assert "no features in common" in note
    exact = ByLength(TASKS, space="parameters")
    exact.backward(Net().objective(common=[]))
    assert not exact.notes


def test_a_cosine_without_overlap_is_nan_at_the_features_and_a_number_elsewhere() -> None:
    labelled = rows([0, 1], [2, 3])
    for space, expected in (("features", True), ("parameters", False)):
        balance = ByLength(TASKS, space=space).backward(Net().objective(rows=labelled))  # type: ignore[arg-type]
        values = cosines(balance)
        assert values[0, 1].isnan().item() is expected
        assert values.diagonal().tolist() == pytest.approx([1.0, 1.0])
    gramian = torch.tensor([[4.0, -3.0], [-3.0, 9.0]])
    assert cosines(Balance({}, gramian))[0, 1].item() == pytest.approx(-0.5)
    assert cosines(Balance({}, torch.zeros(2, 2))).isnan().all()
    huge = torch.tensor([[1e36, 1e30], [1e30, 1e26]])
    assert cosines(Balance({}, huge))[0, 1].item() == pytest.approx(0.1, rel=1e-4)


def test_a_task_without_a_gradient_is_not_weighed_at_the_features() -> None:
    net, balancer = Net(), ByLength(TASKS, space="features")
    objective = net.objective()
    objective.each = [objective.losses[0], torch.zeros(())]
    objective.last = False
    balance = balancer.backward(objective)
    assert balancer.seen[0] == TASKS[:1]
    assert list(balance.weights) == [TASKS[0]]
    assert balance.gramian is not None
    assert balance.gramian[1].tolist() == balance.gramian[:, 1].tolist() == [0.0, 0.0]
    # at the parameters it is weighed at the end, with what the effective batch has
    exact = ByLength(TASKS, space="parameters")
    for seed in (1, 2):
        objective = net.objective(seed=seed, last=seed == 2)
        if seed == 2:
            objective.losses = torch.stack([objective.losses[0], torch.zeros(())])
        exact.backward(objective)
    assert exact.seen[0] == TASKS
    assert exact.seen[2] is True


def test_the_losses_that_a_method_sees_are_those_of_the_effective_batch() -> None:
    net, balancer = Net(), ByLength(TASKS, space="parameters")
    wanted = sum(net.objective(seed=s).losses.detach() for s in (1, 2))
    balancer.backward(net.objective(seed=1, last=False))
    balancer.backward(net.objective(seed=2))
    torch.testing.assert_close(balancer.seen[1], wanted)
    balancer.backward(net.objective(whole=torch.tensor([5.0, 6.0])))
    assert balancer.seen[1].tolist() == [5.0, 6.0]


@pytest.mark.parametrize("rolled", [True, False])
def test_rollback_forgets_a_half_done_effective_batch(rolled: bool) -> None:
    net, balancer = Net(), ByLength(TASKS, space="parameters")
    balancer.backward(net.objective(seed=1, last=False))
    if rolled:
        balancer.rollback()
    net.zero_grad()
    gramian = balancer.backward(net.objective(seed=2)).gramian
    alone, _ = explicit([net.objective(seed=2)])
    assert torch.allclose(gramian, alone) is rolled  # type: ignore[arg-type]


@pytest.mark.parametrize("common", [True, False])
def test_monitoring_changes_no_gradient_and_sees_what_a_gradient_method_sees(common: bool) -> None:
    plain, watched, other = Net(), Net(), Net()
    changes: dict[str, Any] = {} if common else {"common": []}
    Equal(TASKS).backward(plain.objective(**changes))
    balancer = Equal(TASKS, monitor=True)
    balance = balancer.backward(watched.objective(**changes, scale=4.0))
    assert ["which is dearer" in note for note in balancer.notes] == [True] * (not common)
    expected = Fixed(TASKS).backward(other.objective(**changes))
    torch.testing.assert_close(balance.gramian, expected.gramian)
    assert balance.space == expected.space == ("features" if common else "parameters")
    close([g / 4 for g in watched.grads()], plain.grads())
    assert Equal(TASKS).backward(plain.objective()).gramian is None


def test_monitoring_with_accumulation_is_exact_at_the_parameters() -> None:
    net, balancer = Net(), FixedLoss(TASKS, monitor=True)
    gramian, _ = explicit([net.objective(seed=s) for s in (1, 2)])
    assert balancer.backward(net.objective(seed=1, last=False, common=[])).gramian is None
    found = balancer.backward(net.objective(seed=2, common=[])).gramian
    torch.testing.assert_close(found, gramian, rtol=1e-4, atol=1e-6)


def test_a_space_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'last' needs a layer that all tasks read"):
        ByLength(TASKS, space="last").backward(Net().objective())
    with pytest.raises(ConfigError, match=r"refuses 'features': what it remembers .*expected one of 'auto', 'param"):
        RowsByLength(TASKS, space="features")
    with pytest.raises(ConfigError, match="refuses 'last': no weights"):
        Signs(TASKS, space="last")


def test_what_is_abstract() -> None:
    for kind in (Balancer, LossBalancer, GramianBalancer, JacobianBalancer, RowBalancer):
        with pytest.raises(TypeError, match="abstract"):
            kind()  # type: ignore[abstract]


def test_a_head_is_differentiated_once_whatever_the_number_of_tasks() -> None:
    net, counts = Net(), dict.fromkeys(TASKS, 0)
    for space in ("features", "parameters"):
        objective = net.objective()
        each = []
        for task, loss in zip(TASKS, objective.losses.unbind(), strict=True):
            alone = loss.detach().requires_grad_() * 1.0 + (objective.common[0] * 0.1).sum()
            alone.register_hook(lambda _, task=task: counts.update({task: counts[task] + 1}))
            each.append(alone * 1.0)
        objective.each, objective.losses = each, torch.stack(each)
        ByLength(TASKS, space=space).backward(objective)  # type: ignore[arg-type]
    assert counts == dict.fromkeys(TASKS, 2)
