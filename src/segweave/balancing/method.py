"""What every balancing method is: an objective in, `.grad` filled, weights out.

An effective batch is one optimizer step; it comes as one or several micro-batches, of which the last one says so.
What a method remembers advances with the last one only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.balancing.gradients import accumulate, backward, trainable
from segweave.balancing.memory import Memory
from segweave.balancing.objective import Balance, Objective
from segweave.balancing.spaces import Held, Measure, Space, choose, dearer, overlap_of
from segweave.errors import ConfigError


class Balancer(nn.Module, ABC):
    """Turns an objective into gradients. State is kept by task name, in `memory`.

    Args:
        tasks: every task of the network; methods that learn something per task need them, the others do not.
        seed: of the methods that draw random numbers, which are functions of (seed, step).

    Attributes:
        family: `loss`, `gramian` or `jacobian`: what the method reads.
        cost: of a step beside that of the plain sum, in words.
        paper: where it was published.
        ahead: the weights need the losses of the effective batch before its first gradient. With several micro-batches
            `fit` makes a forward pass without gradients through all of them first.
        notes: what a user should be told once, in the order in which it came up.
        epoch: of the present effective batch, from 0.
        first: the present micro-batch is the first one of its effective batch.
    """

    family: ClassVar[str]
    cost: ClassVar[str]
    paper: ClassVar[str]
    ahead: bool = False

    def __init__(self, tasks: Sequence[str] = (), seed: int = 0) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.seed = seed
        self.memory = Memory()
        self.notes: dict[str, None] = {}
        self.epoch = 0
        self.first = True
        self._sum: Tensor | None = None
        self._begun = False

    @property
    def label(self) -> str:
        """What results of this method are called; a variant that is not the published method says so."""
        return type(self).__module__.rpartition(".")[2]

    def backward(self, objective: Objective) -> Balance:
        """Adds the gradients of the balanced objective, times its scale, to `.grad`; frees the graph."""
        self.first = not self._begun
        if self.first:
            self.memory.mark()
        self._begun, self.epoch = not objective.last, objective.epoch
        share = objective.losses.detach()
        self._sum = share if self._sum is None else self._sum + share
        # a later micro-batch adds to it; what is known ahead is whole from the first one on
        whole = objective.whole if objective.whole is not None else objective.reduce(self._sum)
        balance = self.differentiate(objective, whole.float())
        if objective.last:
            self._sum = None
            self.memory.step += 1
        return balance

    @abstractmethod
    def differentiate(self, objective: Objective, whole: Float[Tensor, " n"]) -> Balance:
        """What `backward` does.

        Args:
            whole: alpha_i L_i of the effective batch, detached; without `ahead`, of its micro-batches so far.
        """

    def after(self, tasks: tuple[str, ...], losses: Callable[[], Float[Tensor, " n"]]) -> None:
        """The step was taken. Nothing to do here, for most methods.

        Args:
            tasks: those of the effective batch.
            losses: a second forward pass of the same batch, with the same dropout, through the network as it is now:
                detached alpha_i L_i. It costs a forward pass when called, and changes nothing.
        """

    def rollback(self) -> None:
        """The step was skipped: the memory goes back to what it was before this effective batch."""
        self.memory.rollback()
        self._sum, self._begun = None, False


class LossBalancer(Balancer):
    """Methods that make one scalar of the losses; its plain gradient does the rest.

    Args:
        tasks, seed: of `Balancer`.
        monitor: compare the task gradients too, so that their cosines are logged. It changes no result and costs one
            more backward pass per task, down to the common features, or to the parameters where there are none or the
            tasks share too few images.
    """

    family = "loss"

    def __init__(self, tasks: Sequence[str] = (), seed: int = 0, *, monitor: bool = False) -> None:
        super().__init__(tasks, seed)
        self.monitor = monitor
        self._watch = Measure(self.notes)

    @abstractmethod
    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool, whole: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """The scalar to differentiate, and the weight each loss has in it.

        Args:
            losses: alpha_i L_i, this micro-batch's share of them; n may be 0.
            tasks: their names, every one with a label in the effective batch.
            last: the last micro-batch of the effective batch; state advances only here.
            whole: detached alpha_i L_i of the effective batch; without `ahead`, of its micro-batches so far.
        """

    def differentiate(self, objective: Objective, whole: Float[Tensor, " n"]) -> Balance:
        watched = self._watch(objective) if self.monitor and objective.tasks else (None, None, None)
        total, weights = self.combine(objective.losses, objective.tasks, objective.last, whole)
        total = total + objective.regulariser
        # a micro-batch without labels and without regularisers has nothing to differentiate
        if total.requires_grad:
            (total * objective.scale).backward()
        return Balance(dict(zip(objective.tasks, weights.detach(), strict=True)), *watched)

    def rollback(self) -> None:
        super().rollback()
        self._watch.clear()


class Comparing(Balancer):
    """What compares task gradients: it holds the space, and the gradients at the parameters between micro-batches.

    Args:
        tasks, seed: of `Balancer`.
        space: where the gradients are compared: at the features that all heads read, at the shared parameters, or at
            those of the last layer that all tasks read. `auto` is the features where every two tasks share at least
            half of the images labelled for either, decided for each effective batch, and the parameters otherwise, and
            for a method that refuses the features.

    Attributes:
        refuses: spaces that the method cannot work in, with the reason.

    Raises:
        ConfigError: a space of another name, or one that the method or the network refuses.
    """

    refuses: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        space: Literal["auto", "features", "parameters", "last"] = "auto",
    ) -> None:
        super().__init__(tasks, seed)
        choices = ("auto", "features", "parameters", "last")
        if space not in choices:
            raise ConfigError(f"balancing.space: found {space!r}; expected one of {', '.join(map(repr, choices))}")
        if space in self.refuses:
            left = ", ".join(repr(choice) for choice in choices if choice not in self.refuses)
            raise ConfigError(
                f"balancing.space: {self.label} refuses {space!r}: {self.refuses[space]}; expected one of {left}"
            )
        self.space: Space = space
        self._held = Held()

    def differentiate(self, objective: Objective, whole: Float[Tensor, " n"]) -> Balance:
        overlap = overlap_of(objective)
        wanted: Space = "parameters" if self.space == "auto" and "features" in self.refuses else self.space
        space, why = choose(wanted, objective, overlap)
        if why is not None:
            self.notes[dearer(why)] = None
        if not objective.tasks:
            backward([], [], objective.regulariser, objective.scale)
            return Balance({}, None, overlap, space)
        weights, gramian = self.compare(objective, whole, space)
        return Balance(weights, gramian, overlap, space)

    @abstractmethod
    def compare(
        self, objective: Objective, whole: Float[Tensor, " n"], space: Space
    ) -> tuple[dict[str, Tensor], Float[Tensor, "n n"] | None]:
        """Fills `.grad`; weights by task, and the Gramian of all tasks of the objective."""

    def rollback(self) -> None:
        super().rollback()
        self._held.clear()

    def send(self, objective: Objective, weights: Float[Tensor, " k"], places: Sequence[int]) -> None:
        """One backward pass of the weighted sum of some losses, to the shared parameters only."""
        shared = trainable(objective.shared)
        losses = [weight * objective.loss(place) for weight, place in zip(weights, places, strict=True)]
        total = torch.stack(losses).sum() * objective.scale if losses else objective.losses.new_zeros(())
        if shared and total.requires_grad:
            accumulate(shared, torch.autograd.grad(total, shared, retain_graph=True, allow_unused=True))
