"""The seam between the task losses and the gradients: an objective in, `.grad` filled, weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.errors import ConfigError


def identity(value: Tensor) -> Tensor:
    """The sum over one process."""
    return value


@dataclass
class Objective:
    """One micro-batch of an effective batch, ready to differentiate.

    Args:
        tasks: those with a label in the effective batch.
        losses: alpha_i L_i, this micro-batch's share of them, in the order of the tasks; one without a label here is 0
            and needs no gradient.
        regulariser: sum of beta R, never reweighted.
        common: tensors of any shape that all heads read, the cut for methods that compare gradients; a later one may
            be computed from an earlier one. Empty where there is no such cut.
        shared: parameters that no single task owns.
        private: parameters by the task that owns them.
        scale: of a gradient scaler; what reaches `.grad` is multiplied by it.
        reduce: sums a tensor over processes.
        last: the last micro-batch; state advances only here.
        between: those of `shared` that lie behind the common tensors, where the tasks have gone apart already.
    """

    tasks: tuple[str, ...]
    losses: Float[Tensor, " n"]
    regulariser: Float[Tensor, ""]
    common: list[Tensor] = field(default_factory=list)
    shared: list[nn.Parameter] = field(default_factory=list)
    private: Mapping[str, list[nn.Parameter]] = field(default_factory=dict)
    scale: float = 1.0
    reduce: Callable[[Tensor], Tensor] = identity
    last: bool = True
    between: list[nn.Parameter] = field(default_factory=list)


@dataclass(frozen=True)
class Balance:
    """What a balancer did.

    Args:
        weights: by task, what each alpha_i L_i was multiplied by at the shared parameters: detached scalars, and 1
            where the method mixes gradients without a weight per task.
        gramian: inner products of the task gradients, in the order of the objective's tasks; None if none was made.
    """

    weights: Mapping[str, Tensor]
    gramian: Float[Tensor, "n n"] | None = None


class Balancer(nn.Module, ABC):
    """Turns an objective into gradients. State is kept by task name.

    Args:
        tasks: every task of the network; methods that hold something per task need them, the others do not.
    """

    def __init__(self, tasks: Sequence[str] = ()) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    @abstractmethod
    def backward(self, objective: Objective) -> Balance:
        """Adds the gradients of the balanced objective, times its scale, to `.grad`; frees the graph."""

    def rollback(self) -> None:
        """The step was skipped: what `backward` advanced since the last accepted step goes back.

        Nothing to do here, for methods without such state.
        """


class LossBalancer(Balancer):
    """Methods that make one scalar of the losses; its plain gradient does the rest."""

    @abstractmethod
    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """The scalar to differentiate, and the weight each loss has in it.

        Args:
            losses: alpha_i L_i, at least 0; none of them where the effective batch has no label.
            tasks: their names.
            last: the last micro-batch of the effective batch.
        """

    def backward(self, objective: Objective) -> Balance:
        total, weights = self.combine(objective.losses, objective.tasks, objective.last)
        total = total + objective.regulariser
        # a micro-batch without labels and without regularisers has nothing to differentiate
        if total.requires_grad:
            (total * objective.scale).backward()
        return Balance(dict(zip(objective.tasks, weights.detach(), strict=True)))


class GramianBalancer(Balancer):
    """Methods that need only the inner products of the task gradients.

    `features` differentiates each head once, down to the common features, and sends ONE weighted sum through the
    shared part (the upper bound of Sener & Koltun 2018, section 3.3); `parameters` takes every task's gradient at the
    shared parameters, exact and dearer. Private parameters get the gradient of their own alpha_i L_i as it is. The
    Gramian is that of a micro-batch, so that accumulation weighs each micro-batch by itself.

    Args:
        tasks: every task of the network.
        space: where the gradients are compared; `auto` is the features where all heads read the same ones.

    Raises:
        ConfigError: a space of another name; in `backward`, `features` where the heads have none in common.
    """

    def __init__(self, tasks: Sequence[str] = (), *, space: Literal["auto", "features", "parameters"] = "auto") -> None:
        super().__init__(tasks)
        if space not in ("auto", "features", "parameters"):
            raise ConfigError(f"balancing.space: found {space!r}; expected one of 'auto', 'features', 'parameters'")
        self.space = space

    @abstractmethod
    def weigh(self, gramian: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
        """Inner products of the task gradients, float32, to the weights of the tasks.

        The rows are in the order of the objective's tasks; n is at least 1. A loss or a scale that overflowed shows as
        entries that are not finite: answer with any weights, the step is skipped anyway.
        """

    def backward(self, objective: Objective) -> Balance:
        if self.space == "features" and not objective.common:
            raise ConfigError(
                "balancing.space: 'features' needs features that all heads read, and this network has none; "
                "use 'auto' or 'parameters'"
            )
        if not objective.tasks:
            _backward([], [], objective)
            return Balance({})
        at_features = bool(objective.common) and self.space != "parameters"
        targets = [t for t in (objective.common if at_features else objective.shared) if t.requires_grad]
        between = [p for p in objective.between if at_features and p.requires_grad]
        rows: list[list[Tensor | None]] = []
        behind: list[list[Tensor | None]] = []
        for task, loss in zip(objective.tasks, objective.losses, strict=True):
            private = [p for p in objective.private.get(task, []) if p.requires_grad]
            scaled = loss * objective.scale
            at_targets, at_own = _differentiate(scaled, targets, [*private, *between], cut=at_features)
            _accumulate(private, at_own[: len(private)])
            rows.append(at_targets)
            behind.append(at_own[len(private) :])
        jacobian = [
            torch.stack([torch.zeros_like(target) if g is None else g for g in column])
            for target, column in zip(targets, zip(*rows, strict=True), strict=True)
        ]
        gramian = _gramian(jacobian, objective, sum_rows=not at_features)
        weights = self.weigh(gramian).detach()
        for weight, gradients in zip(weights, behind, strict=True):
            _accumulate(between, [None if g is None else weight.to(g.dtype) * g for g in gradients])
        mixed = [torch.tensordot(weights.to(j.dtype), j, dims=1) for j in jacobian]
        if at_features:
            _backward(targets, mixed, objective)
        else:
            reached = [any(g is not None for g in column) for column in zip(*rows, strict=True)]
            _accumulate(targets, [m if r else None for m, r in zip(mixed, reached, strict=True)])
            _backward([], [], objective)
        return Balance(dict(zip(objective.tasks, weights, strict=True)), gramian)


class JacobianBalancer(Balancer):
    """Methods that need the task gradients themselves, at the shared parameters.

    Private parameters get the gradient of their own alpha_i L_i as it is. Over several processes the rows are summed
    before `aggregate`, so that the shared gradient is the same, and complete, in each of them.
    """

    @abstractmethod
    def aggregate(self, rows: Float[Tensor, "n P"]) -> Float[Tensor, " P"]:
        """Task gradients, float32, one a row, to the gradient of the shared parameters; n is at least 1."""

    def backward(self, objective: Objective) -> Balance:
        if not objective.tasks:
            _backward([], [], objective)
            return Balance({})
        shared = [p for p in objective.shared if p.requires_grad]
        rows = []
        for task, loss in zip(objective.tasks, objective.losses, strict=True):
            private = [p for p in objective.private.get(task, []) if p.requires_grad]
            at_shared, at_private = _differentiate(loss * objective.scale, shared, private, cut=False)
            _accumulate(private, at_private)
            filled = [torch.zeros_like(p) if g is None else g for p, g in zip(shared, at_shared, strict=True)]
            rows.append(torch.cat([g.float().flatten() for g in [*filled, loss.new_zeros(0)]]))
        jacobian = objective.reduce(torch.stack(rows) / objective.scale)
        parts = (objective.scale * self.aggregate(jacobian).detach()).split([p.numel() for p in shared])
        _accumulate(shared, [part.view_as(p).to(p.dtype) for part, p in zip(parts, shared, strict=True)])
        _backward([], [], objective)
        return Balance({task: objective.losses.new_ones(()) for task in objective.tasks}, jacobian @ jacobian.T)


def _differentiate(
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


def _gramian(jacobian: Sequence[Tensor], objective: Objective, *, sum_rows: bool) -> Float[Tensor, "n n"]:
    """Inner products of the rows, without the scale, over all processes.

    Args:
        jacobian: per target, the rows [n, *target].
        sum_rows: every process has a part of the same rows (parameters), rather than rows of its own (features).
    """
    total = objective.losses.new_zeros((len(objective.tasks),) * 2, dtype=torch.float32)
    for block in jacobian:
        rows = block.flatten(1).float() / objective.scale
        rows = objective.reduce(rows) if sum_rows else rows
        total = total + rows @ rows.T
    return total if sum_rows else objective.reduce(total)


def _backward(features: Sequence[Tensor], gradients: Sequence[Tensor], objective: Objective) -> None:
    """One pass for the mixture at the features and for the regulariser, which no weight touches."""
    tensors, seeds = [*features], [*gradients]
    if objective.regulariser.requires_grad:
        tensors.append(objective.regulariser)
        seeds.append(torch.full_like(objective.regulariser, objective.scale))
    if tensors:
        torch.autograd.backward(tensors, seeds)


def _accumulate(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient.detach().clone() if parameter.grad is None else parameter.grad + gradient
