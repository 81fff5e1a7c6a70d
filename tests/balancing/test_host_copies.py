"""How often a step waits for the device, told without one: a model of which tensors would lie there.

The parameters are taken for tensors of a device, and so is what is computed from them or sent to where they are; what
the host reads of one is a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from test_every_method import CASES, TASKS, Net, build
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cpu", 0)  # where the host's own tensors are on plain `cpu`
READS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.cpu,
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__index__,
    Tensor.nonzero,
}
WHERE = Tensor.device.__get__  # pyright: ignore[reportAttributeAccessIssue]


class Traffic(TorchFunctionMode):
    """Counts copies from the device to the host.

    Args:
        there: tensors on the device.
    """

    def __init__(self, there: Sequence[Tensor]) -> None:
        self.there = {id(tensor): tensor for tensor in there}
        self.copies: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = tree_leaves([args, kwargs or {}])
        on_device = any(id(leaf) in self.there for leaf in given if isinstance(leaf, Tensor)) or DEVICE in given
        if func == WHERE:
            return DEVICE if on_device else result
        if on_device and (func in READS or (func is Tensor.to and DEVICE not in given and "cpu" in given)):
            self.copies.append(func.__name__)
        elif func is not Tensor.to or "cpu" not in given:
            self.there |= {id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and on_device}
        return result


@pytest.mark.parametrize(("name", "space"), CASES)
def test_a_step_reads_from_the_device_once_at_most(name: str, space: str | None) -> None:
    balancer, net = build(name, space), Net()
    with Traffic([*net.parameters(), *balancer.parameters()]) as traffic:
        for step in range(3):
            objective = net.objective(step)
            objective.rows = {task: torch.arange(6) for task in TASKS}
            traffic.copies.clear()
            balance = balancer.backward(objective)
            balancer.after(TASKS, lambda o=objective: 0.9 * o.losses.detach())
            assert len(traffic.copies) <= 1, traffic.copies
            assert all(id(p.grad) in traffic.there for p in objective.shared)
            assert balance.gramian is None or id(balance.gramian) in traffic.there


def test_the_model_counts_what_it_should() -> None:
    there, here = torch.ones(2), torch.arange(2)
    with Traffic([there]) as traffic:
        bool((here + torch.ones(2) > 0).all())
        here.to("cpu").tolist()
        assert not traffic.copies
        values = (there * 2).to("cpu", torch.float64)
        values.numpy()
        torch.from_numpy(values.numpy()).tolist()
        assert traffic.copies == ["to"]
        (there * 2).sum().item()
        bool(here.to(there.device).any())
    assert traffic.copies == ["to", "item", "__bool__"]
