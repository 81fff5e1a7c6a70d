"""Gradients of several losses at chosen tensors, their inner products, and what adds them to `.grad`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


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


def stacked(rows: Sequence[Sequence[Tensor | None]], targets: Sequence[Tensor]) -> list[Tensor]:
    """Per target, the rows [n, *target], with zeros for None."""
    if not rows:
        return [target.new_zeros((0, *target.shape)) for target in targets]
    return [
        torch.stack([torch.zeros_like(target) if g is None else g for g in column])
        for target, column in zip(targets, zip(*rows, strict=True), strict=True)
    ]


def inner_products(jacobian: Sequence[Tensor], like: Tensor, scale: float | Tensor) -> Float[Tensor, "n n"]:
    """Of the rows of [n, *target] per target, without the scale; float32.

    Args:
        like: a tensor [n] on the right device, for when there is no target.
    """
    total = like.new_zeros((len(like), len(like)), dtype=torch.float32)
    for block in jacobian:
        rows = _unscaled(block.flatten(1).float(), scale)
        total = total + rows @ rows.T
    return total


def accumulate(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Adds to `.grad`; None adds nothing."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient.detach().clone() if parameter.grad is None else parameter.grad + gradient


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


def mix(weights: Float[Tensor, " n"], jacobian: Sequence[Tensor]) -> list[Tensor]:
    """The weighted sum of the rows of [n, *target], per target.

    In float32 at least: weights that are rounded to bf16 turn the sum of nearly opposite rows, and large ones are
    infinite in fp16.
    """
    mixed = []
    for block in jacobian:
        wide = torch.promote_types(weights.dtype, block.dtype)
        mixed.append(torch.tensordot(weights.to(wide), block.to(wide), dims=1).to(block.dtype))
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


def flat(jacobian: Sequence[Tensor], like: Float[Tensor, " n"], scale: float | Tensor) -> Float[Tensor, "n P"]:
    """Rows of [n, *target] per target as one matrix, without the scale; float32.

    Args:
        like: a tensor [n] on the right device, for when there is no target.
    """
    rows = [block.flatten(1).float() for block in jacobian] or [like.new_zeros((len(like), 0))]
    return _unscaled(torch.cat(rows, 1) if len(rows) > 1 else rows[0], scale)


def parted(row: Float[Tensor, " P"], targets: Sequence[Tensor]) -> list[Tensor]:
    """One such row as a gradient per target."""
    parts = row.split([target.numel() for target in targets])
    return [part.view_as(target).to(target.dtype) for part, target in zip(parts, targets, strict=True)]


def _unscaled(rows: Float[Tensor, "n P"], scale: float | Tensor) -> Float[Tensor, "n P"]:
    """Divided by the scale; as they are, without a copy of them, where there is none."""
    return rows if isinstance(scale, float) and scale == 1 else rows / scale
