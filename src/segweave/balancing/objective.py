"""What goes into a balancer and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segweave.balancing.gradients import identity


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
        scale: of a gradient scaler, on the device or as a number; what reaches `.grad` is multiplied by it.
        reduce: sums a tensor over processes.
        last: the last micro-batch; state advances only here.
        between: those of `shared` that lie behind the common tensors, where the tasks have gone apart already.
        rows: by task, which images of the EFFECTIVE batch carry its label, on the CPU; empty: all of them, for all.
        closing: those of `shared` in the last layer that all tasks read, for `space: last`.
        whole: alpha_i L_i of the effective batch, detached and summed over processes, where it is known ahead.
        epoch: from 0.
        each: the losses one by one, before they were stacked. The gradient of one loss out of a stack runs through the
            heads of all others too, as zeros: T heads cost T^2. Empty: they are taken out of `losses` all the same.
    """

    tasks: tuple[str, ...]
    losses: Float[Tensor, " n"]
    regulariser: Float[Tensor, ""]
    common: list[Tensor] = field(default_factory=list)
    shared: list[nn.Parameter] = field(default_factory=list)
    private: Mapping[str, list[nn.Parameter]] = field(default_factory=dict)
    scale: float | Float[Tensor, ""] = 1.0
    reduce: Callable[[Tensor], Tensor] = identity
    last: bool = True
    between: list[nn.Parameter] = field(default_factory=list)
    rows: Mapping[str, Int64[Tensor, " _"]] = field(default_factory=dict)
    closing: list[nn.Parameter] = field(default_factory=list)
    whole: Float[Tensor, " n"] | None = None
    epoch: int = 0
    each: Sequence[Float[Tensor, ""]] = ()

    def loss(self, place: int) -> Float[Tensor, ""]:
        """That of the task at a place; it needs no gradient where the micro-batch has no label for it."""
        return self.each[place] if self.each else self.losses[place]


@dataclass(frozen=True)
class Balance:
    """What a balancer did with a micro-batch.

    Args:
        weights: by task, what each alpha_i L_i was multiplied by at the shared parameters: detached scalars, and 1
            where the method mixes gradients without a weight per task. Tasks that got no gradient here are absent.
        gramian: inner products of the task gradients, in the order of the objective's tasks; None if none was made. Of
            a micro-batch at the features and the last layer, of the effective batch at the parameters.
        overlap: for every pair of tasks, the share of the images of the effective batch with a label of either that
            have both; on the CPU.
        space: where the Gramian was taken: `features`, `parameters` or `last`.
    """

    weights: Mapping[str, Tensor]
    gramian: Float[Tensor, "n n"] | None = None
    overlap: Float[Tensor, "n n"] | None = None
    space: str | None = None


def cosines(balance: Balance) -> Float[Tensor, "n n"]:
    """Cosine of the angle between every two task gradients of a Gramian, on its device.

    NaN where a gradient is zero, and at the features where no image has both labels: the rows of two such gradients
    are disjoint, and their inner product is 0 whatever the tasks are like.
    """
    assert balance.gramian is not None
    lengths = balance.gramian.diagonal().sqrt()
    values = balance.gramian / lengths / lengths[:, None]
    if balance.space == "features" and balance.overlap is not None:
        blind = (balance.overlap == 0).to(values.device, non_blocking=True)
        values = values.masked_fill(blind, torch.nan)
    return values
