"""The seam between the task losses and the gradients: an objective in, `.grad` filled, weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn


def identity(value: Tensor) -> Tensor:
    return value


@dataclass
class Objective:
    """One micro-batch of an effective batch, ready to differentiate.

    Args:
        tasks: those with a label in the effective batch.
        losses: alpha_i L_i, this micro-batch's share of them.
        regulariser: sum of beta R, never reweighted.
        common: tensors that all heads read; empty where there is no such cut.
        shared: parameters that no single task owns.
        private: parameters by the task that owns them.
        scale: of a gradient scaler; what reaches `.grad` is multiplied by it.
        reduce: sums a tensor over processes.
        last: the last micro-batch; state advances only here.
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


@dataclass(frozen=True)
class Balance:
    """What a balancer did: the factor of each alpha_i L_i at the shared parameters, and the Gramian if it made one."""

    weights: Mapping[str, Tensor]
    gramian: Float[Tensor, "n n"] | None = None


class Balancer(nn.Module, ABC):
    """Turns an objective into gradients. State is kept by task name.

    Args:
        tasks: every task of the network.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    @abstractmethod
    def backward(self, objective: Objective) -> Balance:
        """Adds the gradients of the balanced objective to `.grad`."""

    def rollback(self) -> None:
        """The step was skipped: whatever `backward` advanced goes back. Nothing to do for stateless methods."""


class LossBalancer(Balancer):
    """Methods that make one scalar of the losses; its plain gradient does the rest."""

    @abstractmethod
    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """The scalar to differentiate, and the weight each loss has in it."""

    def backward(self, objective: Objective) -> Balance:
        total, weights = self.combine(objective.losses, objective.tasks, objective.last)
        total = total + objective.regulariser
        if total.requires_grad:
            (total * objective.scale).backward()
        return Balance(dict(zip(objective.tasks, weights.detach(), strict=True)))


class GramianBalancer(Balancer):
    """Methods that need only the inner products of the task gradients.

    `features` differentiates each head once, down to the common features, and sends ONE weighted sum through the
    shared part; `parameters` takes every task's gradient at the shared parameters, exact and dearer. Private
    parameters get the gradient of their own alpha_i L_i as it is.

    Args:
        tasks: every task of the network.
        space: where the gradients are compared; `auto` is the features where all heads read the same ones.
    """

    def __init__(self, tasks: Sequence[str], *, space: str = "auto") -> None:
        super().__init__(tasks)
        self.space = space

    @abstractmethod
    def weigh(self, gramian: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
        """Gramian of the task gradients, float32, to the weights of the tasks."""

    def backward(self, objective: Objective) -> Balance:
        at_features = bool(objective.common) and self.space in ("auto", "features")
        targets: list[Tensor] = [*objective.common] if at_features else [*objective.shared]
        rows = []
        for task, loss in zip(objective.tasks, objective.losses, strict=True):
            private = objective.private.get(task, [])
            inputs = [*targets, *private]
            gradients = torch.autograd.grad(loss * objective.scale, inputs, retain_graph=True, materialize_grads=True)
            _accumulate(private, gradients[len(targets) :])
            rows.append(gradients[: len(targets)])
        flat = torch.stack([torch.cat([g.detach().float().flatten() for g in row]) for row in rows])
        gramian = objective.reduce(flat @ flat.T) / objective.scale**2
        weights = self.weigh(gramian)
        mixed = [
            torch.stack([w * row[i] for w, row in zip(weights, rows, strict=True)]).sum(0) for i in range(len(targets))
        ]
        if at_features:
            torch.autograd.backward(targets, mixed, inputs=objective.shared, retain_graph=True)
        else:
            _accumulate(objective.shared, mixed)
        if objective.regulariser.requires_grad:
            (objective.regulariser * objective.scale).backward()
        return Balance(dict(zip(objective.tasks, weights.detach(), strict=True)), gramian)


class JacobianBalancer(Balancer):
    """Methods that need the task gradients themselves, at the shared parameters."""

    @abstractmethod
    def aggregate(self, rows: Float[Tensor, "n P"]) -> Float[Tensor, " P"]:
        """Task gradients, one a row, to the gradient of the shared parameters."""

    def backward(self, objective: Objective) -> Balance:
        rows = []
        for task, loss in zip(objective.tasks, objective.losses, strict=True):
            private = objective.private.get(task, [])
            gradients = torch.autograd.grad(
                loss, [*objective.shared, *private], retain_graph=True, materialize_grads=True
            )
            _accumulate(private, [objective.scale * g for g in gradients[len(objective.shared) :]])
            rows.append(torch.cat([g.flatten() for g in gradients[: len(objective.shared)]]))
        jacobian = objective.reduce(torch.stack(rows))
        parts = (objective.scale * self.aggregate(jacobian)).split([p.numel() for p in objective.shared])
        _accumulate(objective.shared, [part.view_as(p) for part, p in zip(parts, objective.shared, strict=True)])
        if objective.regulariser.requires_grad:
            (objective.regulariser * objective.scale).backward()
        return Balance({task: torch.ones(()) for task in objective.tasks}, jacobian @ jacobian.T)


def _accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
