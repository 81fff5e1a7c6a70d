"""What every balancing method owes, on a small network of the real kind and on a small one of its own.

The network has a decoder whose pyramid detection reads and whose fused map two dense tasks read, so that there are
parameters between the common features and the heads.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segweave import checkpoint
from segweave.balancing import METHODS
from segweave.balancing.balancer import Balancer, LossBalancer, Objective
from segweave.balancing.gradients import identity
from segweave.balancing.method import Comparing
from segweave.batch import Batch, Labelled
from segweave.data.loader import Effective
from segweave.errors import ConfigError
from segweave.model import MultiTaskModel, create_model
from segweave.tasks import Depth, Detection, Semantic
from segweave.train import fit

TASKS = ("semantic", "depth", "objects")
SPACES = ("features", "parameters", "last")
# at one task these are not the plain sum: half the loss, its logarithm, or a length of their own
NOT_PLAIN = {"uncertainty", "stch"}


def spaces(name: str) -> list[str | None]:
    """The spaces that a method takes; None for methods by loss."""
    method = METHODS.load(name)
    return [None] if not issubclass(method, Comparing) else [s for s in SPACES if s not in method.refuses]


EVERY = pytest.mark.parametrize("name", METHODS)
CASES = [(name, space) for name in METHODS for space in spaces(name)]
EVERYWHERE = pytest.mark.parametrize(("name", "space"), CASES)


def build(name: str, space: str | None = None, tasks: Sequence[str] = TASKS, seed: int = 0) -> Balancer:
    options: dict[str, Any] = {"space": space} if space else {}
    return METHODS.load(name)(list(tasks), seed, **options)


class Net(nn.Module):
    """A shared layer, a last shared layer, and a head per task."""

    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.stem, self.closing = nn.Linear(5, 6), nn.Linear(6, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})
        for parameter in self.parameters():
            parameter.data.copy_(0.6 * torch.randn(parameter.shape, generator=draw))
        self.tasks = tuple(tasks)

    def objective(
        self, seed: int = 1, factor: float = 1.0, tasks: Sequence[str] | None = None, copies: int = 1
    ) -> Objective:
        draw = torch.Generator().manual_seed(seed)
        images = torch.randn(6, 5, generator=draw).repeat(copies, 1)
        targets = {task: torch.randn(6, 2, generator=draw).repeat(copies, 1) for task in TASKS}
        common = torch.tanh(self.closing(torch.tanh(self.stem(images))))
        names = self.tasks if tasks is None else tuple(tasks)
        losses = [factor * (self.heads[task](common) - targets[task]).square().mean() for task in names]
        return Objective(
            names,
            torch.stack(losses),
            torch.zeros(()),
            [common],
            [*self.stem.parameters(), *self.closing.parameters()],
            {task: list(head.parameters()) for task, head in self.heads.items()},
            closing=[self.closing.weight],
            each=losses,
        )

    def take(self) -> list[Tensor]:
        """The shared gradients, which are then gone."""
        found = [p.grad.clone() for p in (*self.stem.parameters(), *self.closing.parameters()) if p.grad is not None]
        self.zero_grad()
        return found


def walk(balancer: Balancer, net: Net, steps: Sequence[int], tasks: Sequence[str] | None = None) -> list[list[Tensor]]:
    """Shared gradients of these steps of an unchanging network."""
    found = []
    for step in steps:
        balancer.backward(net.objective(step, tasks=tasks))
        names = net.tasks if tasks is None else tuple(tasks)
        fallen = torch.tensor([{"semantic": 0.8, "depth": 0.95, "objects": 0.9}[task] for task in names])
        balancer.after(names, lambda step=step, f=fallen: f * net.objective(step, tasks=tasks).losses.detach())
        found.append(net.take())
    return found


def same(one: Sequence[Sequence[Tensor]], other: Sequence[Sequence[Tensor]]) -> None:
    for a, b in zip(itertools.chain(*one), itertools.chain(*other), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-5)


@EVERY
def test_the_catalogue_says_what_it_is(name: str) -> None:
    method = METHODS.load(name)
    assert method.family in ("loss", "gramian", "jacobian")
    assert (method.family == "loss") is issubclass(method, LossBalancer)
    assert method.cost
    assert method.paper
    assert build(name).label == name


@EVERYWHERE
def test_one_task_alone_has_its_plain_gradient(name: str, space: str | None) -> None:
    net = Net(TASKS[:1])
    objective = net.objective()
    wanted = torch.autograd.grad(objective.losses[0], objective.shared)
    (found,) = walk(build(name, space, TASKS[:1]), net, [1])
    one, other = torch.cat([g.flatten() for g in found]), torch.cat([g.flatten() for g in wanted])
    if name in NOT_PLAIN:
        torch.testing.assert_close(one / one.norm(), other / other.norm())
    else:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@EVERYWHERE
def test_the_order_of_the_tasks_does_not_matter(name: str, space: str | None) -> None:
    turned = (TASKS[2], TASKS[0], TASKS[1])
    one = walk(build(name, space), Net(), [1, 2, 3])
    same(one, walk(build(name, space, turned), Net(turned), [1, 2, 3]))


@EVERYWHERE
def test_state_is_saved_bit_for_bit_and_goes_on_alike(name: str, space: str | None, tmp_path: Path) -> None:
    balancer, net = build(name, space), Net()
    walk(balancer, net, [1, 2])
    walk(balancer, net, [3], TASKS[:2])
    tensors: dict[str, Tensor] = {}
    held = checkpoint.flatten(balancer.state_dict(), "balancer", tensors)
    checkpoint.save(tmp_path / "state.safetensors", tensors, {"balancer": held})
    read, meta = checkpoint.load(tmp_path / "state.safetensors")
    fresh = build(name, space)
    fresh.load_state_dict(checkpoint.restore(meta["balancer"], read))
    assert identical(fresh.state_dict(), balancer.state_dict())
    for one, other in zip(walk(balancer, Net(), [4, 5]), walk(fresh, Net(), [4, 5]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def identical(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    return one == other


@EVERYWHERE
def test_a_skipped_step_leaves_no_trace(name: str, space: str | None) -> None:
    balancer, net = build(name, space), Net()
    walk(balancer, net, [1, 2])
    before = copy.deepcopy(balancer.state_dict())
    balancer.backward(net.objective(3, factor=1e30))
    balancer.rollback()
    net.take()
    assert identical(balancer.state_dict(), before)


@EVERYWHERE
def test_an_absent_task_keeps_its_state_and_the_others_go_on(name: str, space: str | None) -> None:
    balancer, net = build(name, space), Net()
    walk(balancer, net, [1, 2])
    values = balancer.memory.get_extra_state()["values"]
    # the targets of GradVac are one matrix for all pairs, see its own test
    kept = {key: value for key, value in values.items() if not key.startswith("targets/")}
    own = {key: value for key, value in kept.items() if TASKS[2] in key.replace("|", "/").split("/")}
    balance = balancer.backward(net.objective(3, tasks=TASKS[:2]))
    balancer.after(TASKS[:2], lambda: net.objective(3, tasks=TASKS[:2]).losses.detach())
    assert set(balance.weights) == set(TASKS[:2])
    after = balancer.memory.get_extra_state()["values"]
    assert all(torch.equal(after[key], value) for key, value in own.items())
    assert net.heads[TASKS[2]].weight.grad is None
    assert all(g.isfinite().all() and g.any() for g in net.take())
    walk(balancer, net, [4])


@EVERYWHERE
@pytest.mark.parametrize("factors", [(0.0, 0.0, 0.0), (0.0, 1.0, 1.0), (1e-12, 1.0, 1e6), (1e6, 1e6, 1e6)])
def test_extreme_losses_give_finite_weights(name: str, space: str | None, factors: tuple[float, ...]) -> None:
    balancer, net = build(name, space), Net()
    for step in (1, 2):
        objective = net.objective(step)
        objective.each = [loss * factor for loss, factor in zip(objective.each, factors, strict=True)]
        objective.losses = torch.stack(list(objective.each))
        balance = balancer.backward(objective)
        balancer.after(TASKS, lambda: objective.losses.detach() * 0.5)  # noqa: B023
        assert all(weight.isfinite() for weight in balance.weights.values())
        assert all(g.isfinite().all() for g in net.take())


@EVERYWHERE
def test_collinear_gradients_give_finite_weights(name: str, space: str | None) -> None:
    for sign in (1.0, -1.0):
        balancer, net = build(name, space, TASKS[:2]), Net(TASKS[:2])
        objective = net.objective()
        # the second loss is the first one's mirror, raised above 0
        loss = objective.each[0]
        objective.each = [loss, 10 + sign * 0.5 * loss]
        objective.losses = torch.stack(list(objective.each))
        balance = balancer.backward(objective)
        assert all(weight.isfinite() for weight in balance.weights.values())
        assert all(g.isfinite().all() for g in net.take())


@EVERYWHERE
def test_results_are_functions_of_seed_and_step(name: str, space: str | None) -> None:
    one = walk(build(name, space, seed=3), Net(), [1, 2, 3])
    torch.rand(11)
    for a, b in zip(one, walk(build(name, space, seed=3), Net(), [1, 2, 3]), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@EVERYWHERE
def test_the_parts_of_two_processes_add_up_to_the_whole(name: str, space: str | None) -> None:
    """Each has the images and half of every loss; what they would sum is what one process with all images has."""
    fallen = torch.tensor([0.8, 0.95, 0.9])
    found = []
    for processes in (1, 2):
        balancer, net, gradients = build(name, space), Net(), []
        for step in (1, 2):
            # every image twice; what is drawn for a value of an image would be another for its copy
            copies = 2 // processes if balancer.family == "gramian" else 1
            objective = net.objective(step, factor=1 / processes, copies=copies)
            objective.reduce = (lambda value: 2 * value) if processes == 2 else identity
            balancer.backward(objective)
            balancer.after(TASKS, lambda s=step, n=net: fallen * n.objective(s).losses.detach())
            gradients.append([processes * g for g in net.take()])
        found.append(gradients)
    same(*found)


@EVERY
def test_refused_spaces_are_refused_with_the_reason(name: str) -> None:
    method = METHODS.load(name)
    for space, reason in getattr(method, "refuses", {}).items():
        with pytest.raises(ConfigError, match=rf"balancing\.space: {name} refuses '{space}': {reason[:20]}"):
            build(name, space)


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = [Semantic("semantic", classes=3), Depth("depth"), Detection("objects", classes=["a", "b"], width=8)]
    return create_model(tasks, backbone="test_resnet", decoder={"name": "fpn", "width": 8})


def micro(model: MultiTaskModel, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([[2.0, 3, 20, 15, 0], [10, 5, 30, 22, 1]])
    height, width = 32, 32
    detection = model.tasks["objects"]
    encoded = detection.encode(detection.wrap(boxes, (height, width)))
    targets = {
        "semantic": torch.randint(0, 3, (2, height, width), generator=draw, dtype=torch.uint8),
        "depth": torch.rand(2, height, width, generator=draw) * 20 + 1,
        "objects": detection.stack([encoded, encoded]),
    }
    rows = torch.arange(2)
    images = torch.rand(2, 3, height, width, generator=draw)
    return Batch(["a", "b"], images, {name: Labelled(rows, value) for name, value in targets.items()})


@EVERYWHERE
def test_every_part_changes(model: MultiTaskModel, name: str, space: str | None) -> None:
    """Two steps of the real loop, the second of two micro-batches: every parameter changes, and all is logged."""
    network = copy.deepcopy(model)
    balancer = build(name, space, list(network.tasks))
    before = {key: p.detach().clone() for key, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam([*network.parameters(), *balancer.parameters()], lr=1e-2)
    batches = [Effective(step, 0, [micro(network, 10 * step + i) for i in range(1 + step)]) for step in range(2)]
    for step in fit(network, batches, optimizer=optimizer, balancer=balancer):
        assert not step.not_finite
        assert set(step.weights) == set(network.tasks)
        pairs = {"semantic|depth", "semantic|objects", "depth|objects"}
        assert set(step.cosines) == (pairs if space else set())
        assert all(-1.001 <= value <= 1.001 for value in step.cosines.values())
        assert set(step.overlaps.values()) == ({1.0} if space else set())
    after = dict(network.named_parameters())
    unchanged = [key for key, value in before.items() if torch.equal(value, after[key])]
    assert unchanged == []
