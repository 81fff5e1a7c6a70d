"""Where task gradients are compared: at the common features, at the shared parameters, or at their last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.gradients import (
    Column,
    accumulate,
    blocks,
    columns_of,
    differentiate,
    identity,
    inner_products,
    trainable,
)
from segweave.balancing.objective import Objective
from segweave.errors import ConfigError

Rows = list[Tensor | None]
Space = Literal["auto", "features", "parameters", "last"]
_LEAST_OVERLAP = 0.5


def overlap_of(objective: Objective) -> Float[Tensor, "n n"]:
    """For every pair of tasks, images with both labels over images with either, in the effective batch; on the CPU."""
    n = len(objective.tasks)
    rows = [objective.rows.get(task) for task in objective.tasks]
    if not objective.rows:
        return torch.ones(n, n)
    sets = [set() if r is None else set(r.tolist()) for r in rows]
    counts = torch.tensor([[[len(a & b), len(a | b)] for b in sets] for a in sets], dtype=torch.float32)
    if objective.reduce is not identity:
        counts = objective.reduce(counts.to(objective.losses.device)).cpu()
    both, either = counts.reshape(n, n, 2).unbind(-1)
    return both / either.clamp(min=1)


def choose(space: Space, objective: Objective, overlap: Float[Tensor, "n n"]) -> tuple[Space, str | None]:
    """What `space` means for an effective batch, and why `auto` had to be the dearer one.

    `auto` is `features` where all heads read the same ones and every two tasks share at least half of the images that
    carry a label of either; the gradients of tasks labelled on different images are orthogonal there by construction.

    Raises:
        ConfigError: no common features, or no last layer.
    """
    if space == "features" and not objective.common:
        raise ConfigError(
            "balancing.space: 'features' needs features that all heads read, and this network has none; "
            "use 'auto' or 'parameters'"
        )
    if space == "last" and not trainable(objective.closing):
        raise ConfigError(
            "balancing.space: 'last' needs a layer that all tasks read and that is trained, and this network has none; "
            "use 'auto' or 'features'"
        )
    if space != "auto":
        return space, None
    if not objective.common:
        return "parameters", "the heads read no features in common"
    if bool((overlap < _LEAST_OVERLAP).any()):
        row, column = divmod(int(overlap.argmin()), len(objective.tasks))
        return "parameters", (
            f"of the images with a label for {objective.tasks[row]} or {objective.tasks[column]}, less than half have "
            f"both in some batches"
        )
    return "features", None


def dearer(why: str) -> str:
    """What a user is told once."""
    return f"balancing.space: auto compares gradients at the parameters, which is dearer: {why}"


def present(objective: Objective) -> list[int]:
    """Positions of the tasks that have a gradient in this micro-batch, in any process.

    At the features a task without a label is not a row of zeros, to which a method would answer.
    """
    here = [objective.loss(place).requires_grad for place in range(len(objective.tasks))]
    if objective.reduce is not identity:  # all processes have to weigh the same tasks
        here = objective.reduce(objective.losses.new_tensor(here)).tolist()
    return [position for position, is_here in enumerate(here) if is_here]


def at_features(objective: Objective, places: Sequence[int]) -> tuple[list[Tensor], list[Column], list[Rows]]:
    """Each head differentiated once, down to the common features; private parameters get their own gradient.

    Returns:
        The features that need a gradient, the gradients of these tasks at each, and by task the gradients at what
        lies between them and the heads.
    """
    targets, between = trainable(objective.common), trainable(objective.between)
    rows, behind = [], []
    for place in places:
        row, rest = _own(objective, place, targets, between, cut=True)
        rows.append(row)
        behind.append(rest)
    return targets, columns_of(rows, targets), behind


def at_closing(objective: Objective, places: Sequence[int]) -> tuple[list[Tensor], list[Column]]:
    """The parameters of the last layer and the tasks' gradients at each; private parameters get their own."""
    targets = trainable(objective.closing)
    return targets, columns_of([_own(objective, place, targets, [], cut=False)[0] for place in places], targets)


def gramian_by_blocks(
    objective: Objective, places: Sequence[int], parameters: Sequence[Tensor], most: int | None
) -> Float[Tensor, "n n"]:
    """Inner products at these parameters, of which the rows of at most so many values are held at once.

    Each block of parameters takes another backward pass of every task.
    """
    total = objective.losses.new_zeros((len(places),) * 2, dtype=torch.float32)
    for number, block in enumerate(blocks(parameters, most)):
        rows = [
            _own(objective, place, block, [], cut=False)[0]
            if number == 0
            else differentiate(objective.loss(place) * objective.scale, block, [], cut=False)[0]
            for place in places
        ]
        like = objective.losses.detach()[list(places)]
        total = total + inner_products(columns_of(rows, block), block, like, objective.scale, objective.reduce)
    return total


class Held:
    """The tasks' gradients at the shared parameters, summed over the micro-batches of an effective batch."""

    def __init__(self) -> None:
        self._rows: list[Rows] = []

    def add(self, objective: Objective, *, private: bool = True) -> None:
        """One micro-batch's gradients, times its scale; the private parameters get their own."""
        shared = trainable(objective.shared)
        every = range(len(objective.tasks))
        if private:
            rows = [_own(objective, place, shared, [], cut=False)[0] for place in every]
        else:
            losses = [objective.loss(place) * objective.scale for place in every]
            rows = [differentiate(loss, shared, [], cut=False)[0] for loss in losses]
        if self._rows:
            rows = [
                [_sum(a, b) for a, b in zip(old, new, strict=True)] for old, new in zip(self._rows, rows, strict=True)
            ]
        self._rows = rows

    def take(self, objective: Objective) -> tuple[list[Tensor], list[Column]]:
        """The shared parameters that a task reaches, and the tasks' gradients at each; starts anew."""
        shared = trainable(objective.shared)
        columns = columns_of(self._rows, shared)
        reached = [i for i, column in enumerate(columns) if any(g is not None for g in column)]
        self.clear()
        return [shared[i] for i in reached], [columns[i] for i in reached]

    def clear(self) -> None:
        self._rows = []


class Measure:
    """The Gramian of an objective's task gradients and nothing else, at the space that `auto` chooses.

    Args:
        notes: gets what a user should be told of that choice.
    """

    def __init__(self, notes: dict[str, None]) -> None:
        self._held = Held()
        self._notes = notes

    def __call__(self, objective: Objective) -> tuple[Float[Tensor, "n n"] | None, Float[Tensor, "n n"], Space]:
        """The Gramian, None before the last micro-batch at the parameters; the overlap; and where it was."""
        overlap = overlap_of(objective)
        space, why = choose("auto", objective, overlap)
        if why is not None:
            self._notes[dearer(why)] = None
        losses = objective.losses.detach()
        if space == "parameters":
            self._held.add(objective, private=False)
            if not objective.last:
                return None, overlap, space
            targets, columns = self._held.take(objective)
            return inner_products(columns, targets, losses, objective.scale, objective.reduce), overlap, space
        targets = trainable(objective.common)
        scaled = [objective.loss(place) * objective.scale for place in range(len(objective.tasks))]
        columns = columns_of([differentiate(loss, targets, [], cut=True)[0] for loss in scaled], targets)
        return objective.reduce(inner_products(columns, targets, losses, objective.scale)), overlap, space

    def clear(self) -> None:
        self._held.clear()


def _own(
    objective: Objective, place: int, targets: Sequence[Tensor], behind: Sequence[Tensor], *, cut: bool
) -> tuple[Rows, Rows]:
    """A task's gradients at the targets and at what lies behind them; its private parameters get theirs."""
    private = trainable(objective.private.get(objective.tasks[place], []))
    scaled = objective.loss(place) * objective.scale
    row, rest = differentiate(scaled, targets, [*private, *behind], cut=cut)
    accumulate(private, rest[: len(private)])
    return row, rest[len(private) :]


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second
