"""Gradients of several losses at chosen tensors, their inner products, and what adds them to `.grad`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Column = Sequence[Tensor | None]
"""The gradients of several losses at one target; None where a loss does not reach it."""

_PIECE = 2**18
"""Values, a megabyte of them."""


def identity(value: Tensor) -> Tensor:
    """The sum over one process."""
    return value


def differentiate(
    loss: Float[Tensor, ""], targets: Sequence[Tensor], private: Sequence[Tensor], *, cut: bool
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of a loss at the targets and at the private parameters; None where the loss does not reach.

    Args:
        cut: the targets are features that may be computed from each other, as the levels of an encoder are. Then
            each gets the gradient of what the heads read of IT: one that went on through a later level would be
            counted again when the mixture is sent through all of them.
    """
    inputs = [*targets, *private]
    if not inputs or not loss.requires_grad:
        return [None] * len(targets), [None] * len(private)
    if not cut or len(targets) == 1:
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        return list(gradients[: len(targets)]), list(gradients[len(targets) :])
    read: list[Tensor | None] = [None] * len(targets)

    def stop_at(position: int) -> Callable[[Tensor], Tensor]:
        def stop(gradient: Tensor) -> Tensor:
            read[position] = gradient
            return torch.zeros_like(gradient)

        return stop

    handles = [target.register_hook(stop_at(position)) for position, target in enumerate(targets)]
    try:
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return read, list(gradients[len(targets) :])


def columns_of(rows: Sequence[Sequence[Tensor | None]], targets: Sequence[Tensor]) -> list[Column]:
    """Gradients by task as gradients by target."""
    return list(zip(*rows, strict=True)) if rows else [()] * len(targets)


def inner_products(
    columns: Sequence[Column],
    targets: Sequence[Tensor],
    like: Float[Tensor, " n"],
    scale: float | Tensor,
    reduce: Callable[[Tensor], Tensor] = identity,
) -> Float[Tensor, "n n"]:
    """Of the gradients of n losses at some targets, without the scale; float32.

    Args:
        columns: per target.
        like: a tensor on the right device, for when there is no target.
        reduce: sums the gradients over processes, all of which have the same targets.
    """
    n = len(like)
    total = like.new_zeros((n, n), dtype=torch.float32)
    for column, target in zip(columns, targets, strict=True):
        if not n:
            break
        rows = [None if gradient is None else gradient.reshape(-1) for gradient in column]
        size = target.numel()
        # on a CPU by pieces that stay in its cache
        step = max(1, _PIECE // n) if target.device.type == "cpu" else size
        for start in range(0, size, step):
            nothing = target.new_zeros(min(step, size - start), dtype=torch.float32)
            piece = torch.stack([nothing if row is None else row[start : start + step].float() for row in rows])
            piece = _unscaled(reduce(piece), scale)
            total = total + piece @ piece.T
    return total


def accumulate(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], *, copied: bool = True) -> None:
    """Adds to `.grad`; None adds nothing.

    Args:
        copied: false for gradients that nobody else holds, which become `.grad` where there was none.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            if parameter.grad is not None:
                parameter.grad = parameter.grad + gradient
            else:
                parameter.grad = gradient.detach().clone() if copied else gradient.detach()


def trainable(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Those that are not frozen."""
    return [p for p in parameters if p.requires_grad]


def blocks(parameters: Sequence[Tensor], most: int | None) -> list[list[Tensor]]:
    """Parameters in groups of at most so many values each, or of one parameter; all in one group for None."""
    groups: list[list[Tensor]] = [[]]
    size = 0
    for parameter in parameters:
        if most is not None and groups[-1] and size + parameter.numel() > most:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += parameter.numel()
    return groups


def mix(weights: Float[Tensor, " n"], columns: Sequence[Column], targets: Sequence[Tensor]) -> list[Tensor]:
    """The weighted sum of the gradients, per target; tensors that nobody else holds.

    In float32 at least: weights that are rounded to bf16 turn the sum of nearly opposite rows, and large ones are
    infinite in fp16.
    """
    mixed = []
    for column, target in zip(columns, targets, strict=True):
        wide = torch.promote_types(weights.dtype, target.dtype)
        total: Tensor | None = None
        for weight, gradient in zip(weights.to(wide), column, strict=True):
            if gradient is None:
                continue
            if total is None:
                total = weight * gradient.to(wide)
            else:
                total.addcmul_(weight, gradient.to(wide))
        mixed.append(torch.zeros_like(target) if total is None else total.to(target.dtype))
    return mixed


def backward(
    tensors: Sequence[Tensor], gradients: Sequence[Tensor], regulariser: Tensor, scale: float | Tensor
) -> None:
    """One pass for the gradients at these tensors and for the regulariser, which no weight touches."""
    roots, seeds = [*tensors], [*gradients]
    if regulariser.requires_grad:
        roots.append(regulariser)
        seeds.append(torch.ones_like(regulariser) * scale)
    if roots:
        torch.autograd.backward(roots, seeds)


def flat(
    columns: Sequence[Column], targets: Sequence[Tensor], like: Float[Tensor, " n"], scale: float | Tensor
) -> Float[Tensor, "n P"]:
    """The gradients of n losses at all targets as one matrix, without the scale; float32.

    Args:
        columns: per target.
        like: a tensor on the right device, for when there is no target.
    """
    rows = like.new_empty((len(like), sum(target.numel() for target in targets)), dtype=torch.float32)
    parts = rows.split([target.numel() for target in targets], 1)
    for column, part in zip(columns, parts, strict=True):
        for gradient, row in zip(column, part, strict=True):
            row.zero_() if gradient is None else row.copy_(gradient.reshape(-1))
    return _unscaled(rows, scale)


def parted(row: Float[Tensor, " P"], targets: Sequence[Tensor]) -> list[Tensor]:
    """One such row as a gradient per target."""
    parts = row.split([target.numel() for target in targets])
    return [part.view_as(target).to(target.dtype) for part, target in zip(parts, targets, strict=True)]


def _unscaled(rows: Float[Tensor, "n P"], scale: float | Tensor) -> Float[Tensor, "n P"]:
    """Divided by the scale; as they are, without a copy of them, where there is none."""
    return rows if isinstance(scale, float) and scale == 1 else rows / scale
