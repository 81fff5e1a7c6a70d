"""Which parameters a tensor was computed from, read from the autograd graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def reached(tensors: Sequence[Tensor]) -> dict[int, nn.Parameter]:
    """Every parameter that a gradient of these tensors arrives at, by `id`."""
    found: dict[int, nn.Parameter] = {}
    for node in _walk(tensors, ()):
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
    return found


def closing_layer(outputs: Mapping[str, Sequence[Tensor]]) -> list[nn.Parameter]:
    """The last layer that all tasks read: on every way back from a head, the first kernel that all tasks reach.

    A kernel is a parameter of two or more dimensions: of a convolution or a linear layer, not of a normalisation. Where
    several ways lead back, as from the levels of a pyramid, there is one on each of them.

    Args:
        outputs: what each head reads, made with gradients. Frozen parameters leave no trace in it.
    """
    per_task = [reached(tensors) for tensors in outputs.values()]
    common = {key for key in per_task[0] if all(key in other for other in per_task)} if per_task else set()
    kernels = {key for key in common if per_task[0][key].ndim >= 2}
    found: dict[int, nn.Parameter] = {}
    for node in _walk([tensor for tensors in outputs.values() for tensor in tensors], kernels):
        for parameter in _read(node):
            if id(parameter) in kernels:
                found[id(parameter)] = parameter
    return list(found.values())


def _walk(tensors: Sequence[Tensor], stops: Collection[int]) -> list[Any]:
    """The nodes of the graph behind these tensors, nearest first; it goes no further than a node that reads a stop."""
    queue = deque(tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None)
    seen: dict[int, Any] = {}
    while queue:
        node = queue.popleft()
        if id(node) in seen:
            continue
        seen[id(node)] = node  # held, so that no other node is given its id
        if not any(id(parameter) in stops for parameter in _read(node)):
            queue.extend(_children(node))
    return list(seen.values())


def _read(node: Any) -> list[nn.Parameter]:
    """The parameters that an operation reads, also as a view: a linear layer reads its weight transposed."""
    found = []
    for child in _children(node):
        place = child
        while not hasattr(place, "variable") and len(place.next_functions) == 1 and _children(place):
            (place,) = _children(place)
        if hasattr(place, "variable"):
            found.append(place.variable)
    return found


def _children(node: Any) -> list[Any]:
    return [child for child, _ in node.next_functions if child is not None]
