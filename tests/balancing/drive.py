"""A balancer by loss driven over steps, with a plain function of one vector as its network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segweave.balancing.balancer import Balancer, Objective

TASKS = ("semantic", "depth", "edges")


def losses_of(x: Tensor, tasks: Sequence[str] = TASKS) -> Tensor:
    """Three positive losses of two numbers, in the order of the tasks."""
    every = {"semantic": x.square().sum(), "depth": (x[0] * x[1]).exp(), "edges": x.abs().sum() + 0.1}
    return torch.stack([every[task] for task in tasks])


def step(
    balancer: Balancer,
    losses: Tensor,
    tasks: Sequence[str] = TASKS,
    *,
    shares: Sequence[float] = (1.0,),
    epoch: int = 0,
    after: Tensor | None = None,
) -> Tensor:
    """One effective batch, in micro-batches of these shares of the losses; the weights of the first one.

    Args:
        after: losses of the same batch after the step; the step is then told to have been taken.
    """
    whole = losses.detach() if balancer.ahead else None
    weights: list[Tensor] = []
    for position, share in enumerate(shares):
        last = position == len(shares) - 1
        objective = Objective(tuple(tasks), losses * share, torch.zeros(()), last=last, whole=whole, epoch=epoch)
        balance = balancer.backward(objective) if last else _kept(balancer, objective)
        weights.append(torch.stack([balance.weights[task] for task in tasks]))
    assert all(torch.allclose(w, weights[0]) for w in weights)
    if after is not None:
        balancer.after(tuple(tasks), lambda: after)
    return weights[0]


def _kept(balancer: Balancer, objective: Objective):
    """`backward` frees the graph that the next share of these losses needs."""
    losses = objective.losses
    fresh = losses.detach().requires_grad_()
    objective.losses = fresh
    balance = balancer.backward(objective)
    if fresh.grad is not None:
        losses.backward(fresh.grad, retain_graph=True)
    return balance


def gradient(balancer: Balancer, tasks: Sequence[str] = TASKS, **options: object) -> tuple[Tensor, Tensor]:
    """Gradient at (0.5, -1.5) and weights of one step there."""
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    weights = step(balancer, losses_of(x, tasks), tasks, **options)  # type: ignore[arg-type]
    assert x.grad is not None
    return x.grad, weights


def values(*numbers: float) -> Tensor:
    """Losses that need a gradient."""
    return torch.tensor(numbers, dtype=torch.float32, requires_grad=True) * 1.0
