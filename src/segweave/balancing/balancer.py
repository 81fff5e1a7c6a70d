"""The seam between the task losses and the gradients: what a method defines, by what it reads.

A method by loss answers to the losses (`LossBalancer`), one by gradient to the inner products of the task gradients
(`GramianBalancer`), to the gradients with weights (`RowBalancer`), or to them coordinate by coordinate
(`JacobianBalancer`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from segweave.balancing.gradients import (
    accumulate,
    backward,
    flat,
    identity,
    inner_products,
    mix,
    parted,
    trainable,
)
from segweave.balancing.method import Balancer as Balancer
from segweave.balancing.method import Comparing
from segweave.balancing.method import LossBalancer as LossBalancer
from segweave.balancing.objective import Balance as Balance
from segweave.balancing.objective import Objective as Objective
from segweave.balancing.objective import cosines as cosines
from segweave.balancing.spaces import Space, at_closing, at_features, gramian_by_blocks, present
from segweave.errors import ConfigError

_COORDINATES = "what it remembers belongs to coordinates, and features are others in every batch"


class GramianBalancer(Comparing):
    """Methods that need only the inner products of the task gradients.

    `features` differentiates each head once, down to the common features, and sends ONE weighted sum through the
    shared part (the upper bound of Sener & Koltun 2018, section 3.3); `last` takes the Gramian at the last layer that
    all tasks read, and again one weighted sum. There every micro-batch is weighed by itself. `parameters` takes every
    task's gradient at all shared parameters, exact and dearer, of the effective batch: one row of them per task is held
    until its last micro-batch. Private parameters get the gradient of their own alpha_i L_i as it is.

    Args:
        tasks, seed, space: of `Comparing`.
        chunk: at the parameters, hold the rows of at most so many shared values at once, or of one tensor, instead of
            all; each chunk takes another backward pass of every task, and the weighted sum one more. Without
            accumulation only.

    Raises:
        ConfigError: a space of another name, or one that the method or the network refuses.
    """

    family = "gramian"

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        space: Literal["auto", "features", "parameters", "last"] = "auto",
        chunk: int | None = None,
    ) -> None:
        super().__init__(tasks, seed, space=space)
        if chunk is not None and (chunk < 1 or space not in ("auto", "parameters")):
            raise ConfigError(
                f"balancing.chunk: found {chunk} with space {space!r}; expected at least 1, and space 'parameters'"
            )
        self.chunk = chunk

    @abstractmethod
    def weigh(
        self, gramian: Float[Tensor, "n n"], tasks: tuple[str, ...], losses: Float[Tensor, " n"], last: bool
    ) -> Float[Tensor, " n"]:
        """Inner products of the task gradients to the weights of the tasks.

        A loss or a scale that overflowed shows as entries that are not finite: answer with any weights, the step is
        skipped anyway.

        Args:
            gramian: float32 or float64; n is at least 1.
            tasks: their names, in the order of the rows; those with a gradient.
            losses: detached alpha_i L_i of the effective batch; without `ahead`, of its micro-batches so far.
            last: the last micro-batch; state advances only here.
        """

    def compare(
        self, objective: Objective, whole: Float[Tensor, " n"], space: Space
    ) -> tuple[dict[str, Tensor], Float[Tensor, "n n"] | None]:
        if space == "parameters" and self.chunk is None:
            self._held.add(objective)
            backward([], [], objective.regulariser, objective.scale)
            if not objective.last:
                return {}, None
            parameters, columns = self._held.take(objective)
            gramian = inner_products(columns, parameters, whole, objective.scale, objective.reduce)
            weights = self.weigh(gramian, objective.tasks, whole, True).detach().to(gramian)
            accumulate(parameters, mix(weights, columns, parameters), copied=False)
            return dict(zip(objective.tasks, weights, strict=True)), gramian
        places = present(objective) if space != "parameters" else list(range(len(objective.tasks)))
        if space == "features":
            targets, columns, behind = at_features(objective, places)
            gramian = objective.reduce(inner_products(columns, targets, whole[places], objective.scale))
        else:
            if space == "parameters" and not (self.first and objective.last):
                raise ConfigError(
                    "balancing.chunk: found with several micro-batches, whose rows have to be summed before they are "
                    "compared; expected train.accumulate: 1, or no chunk"
                )
            where = trainable(objective.shared if space == "parameters" else objective.closing)
            gramian = gramian_by_blocks(objective, places, where, self.chunk if space == "parameters" else None)
            targets, columns, behind = [], [], []
        names = tuple(objective.tasks[place] for place in places)
        weights = whole.new_zeros(0)
        if places:
            weights = self.weigh(gramian, names, whole[places], objective.last).detach().to(gramian)
        if space == "features":
            _send_behind(objective, weights, behind)
            backward(
                targets if places else [],
                mix(weights, columns, targets) if places else [],
                objective.regulariser,
                objective.scale,
            )
        else:
            self.send(objective, weights, places)
            backward([], [], objective.regulariser, objective.scale)
        return dict(zip(names, weights, strict=True)), _spread(gramian, places, len(whole))


class JacobianBalancer(Comparing):
    """Methods that need the task gradients themselves, and mix them coordinate by coordinate.

    At the parameters the rows are those of the effective batch, and held until its last micro-batch. A method whose
    every step stands alone may say that it takes `features` too: there the rows are those of a micro-batch, what lies
    between the common features and the heads gets the plain sum, and one backward pass sends the mixture through the
    shared part. Private parameters get the gradient of their own alpha_i L_i as it is. Over several processes the rows
    at the parameters are summed before `aggregate`, so that the shared gradient is the same, and complete, in each.
    """

    family = "jacobian"
    refuses: ClassVar[Mapping[str, str]] = {
        "features": _COORDINATES,
        "last": "it mixes coordinate by coordinate and gives the layers below no weights",
    }

    @abstractmethod
    def aggregate(
        self, rows: Float[Tensor, "n P"], tasks: tuple[str, ...], features: Sequence[Tensor]
    ) -> Float[Tensor, " P"]:
        """Task gradients, float32, one a row, to the gradient of what is shared; n is at least 1.

        Args:
            rows, tasks: as in `RowBalancer.weigh`.
            features: whose gradients the rows are, one after the other; none at the parameters.
        """

    def compare(
        self, objective: Objective, whole: Float[Tensor, " n"], space: Space
    ) -> tuple[dict[str, Tensor], Float[Tensor, "n n"] | None]:
        behind: list[list[Tensor | None]] = []
        if space == "features":
            places = present(objective)
            targets, columns, behind = at_features(objective, places)
        else:
            places = list(range(len(objective.tasks)))
            self._held.add(objective)
            backward([], [], objective.regulariser, objective.scale)
            if not objective.last:
                return {}, None
            targets, columns = self._held.take(objective)
        names = tuple(objective.tasks[place] for place in places)
        ones = whole.new_ones(len(places))
        rows = flat(columns, targets, ones, objective.scale)
        rows = objective.reduce(rows) if space == "parameters" else rows
        mixed = whole.new_zeros(rows.shape[1])
        if places:
            features = targets if space == "features" else []
            mixed = self.aggregate(rows, names, features).detach() * objective.scale
        if space == "features":
            _send_behind(objective, ones, behind)
            _through(targets, parted(mixed, targets), places, objective)
        else:
            accumulate(targets, parted(mixed / _processes(objective), targets))
        gramian = rows @ rows.T
        gramian = objective.reduce(gramian) if space == "features" else gramian
        return dict(zip(names, ones, strict=True)), _spread(gramian, places, len(whole))


class RowBalancer(Comparing):
    """Methods that look at the task gradients, or remember them, and answer with a weight per task.

    At the parameters the mixture is that of the rows that `track` hands on, of the effective batch. At the last layer
    so is the mixture of that layer; the layers below get the same weights on their present gradients, by one backward
    pass of the weighted sum, and every micro-batch is weighed by itself. Private parameters get the gradient of their
    own alpha_i L_i as it is. Over several processes the rows are summed before they are looked at.
    """

    family = "jacobian"
    refuses: ClassVar[Mapping[str, str]] = {"features": _COORDINATES}

    def track(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],  # noqa: ARG002
        losses: Float[Tensor, " n"],  # noqa: ARG002
        last: bool,  # noqa: ARG002
    ) -> Float[Tensor, "n P"]:
        """The rows that are weighed and mixed, such as averages over time; by default those of this batch."""
        return rows

    @abstractmethod
    def weigh(
        self, rows: Float[Tensor, "n P"], tasks: tuple[str, ...], losses: Float[Tensor, " n"], last: bool
    ) -> Float[Tensor, " n"]:
        """Rows, float32, as `track` hands them on, to the weights of the tasks; n is at least 1.

        Args:
            rows, tasks, losses, last: as in `GramianBalancer.weigh`.
        """

    def compare(
        self, objective: Objective, whole: Float[Tensor, " n"], space: Space
    ) -> tuple[dict[str, Tensor], Float[Tensor, "n n"] | None]:
        if space == "last":
            places = present(objective)
            targets, columns = at_closing(objective, places)
        else:
            places = list(range(len(objective.tasks)))
            self._held.add(objective)
            if not objective.last:
                backward([], [], objective.regulariser, objective.scale)
                return {}, None
            targets, columns = self._held.take(objective)
        names = tuple(objective.tasks[place] for place in places)
        now = objective.reduce(flat(columns, targets, whole[places], objective.scale))
        weights = whole.new_zeros(0)
        if places:
            rows = self.track(now, names, whole[places], objective.last)
            weights = self.weigh(rows, names, whole[places], objective.last).detach().to(now)
            if space == "last":
                self.send(objective, weights, places)
                # that pass reached the last layer too, with the weights on the present rows
                rows = rows - now
            mixed = weights @ rows.detach() * objective.scale
            accumulate(targets, parted(mixed / _processes(objective), targets))
        backward([], [], objective.regulariser, objective.scale)
        return dict(zip(names, weights, strict=True)), _spread(now @ now.T, places, len(whole))


def _through(features: Sequence[Tensor], gradients: Sequence[Tensor], places: Sequence[int], of: Objective) -> None:
    """One backward pass from the features, and of the regulariser; of that alone where no task has a gradient."""
    backward(features if places else [], gradients if places else [], of.regulariser, of.scale)


def _processes(objective: Objective) -> Tensor | float:
    """How many there are: each adds its part of a gradient that all of them know."""
    return 1.0 if objective.reduce is identity else objective.reduce(objective.losses.new_ones(()))


def _send_behind(objective: Objective, weights: Tensor, behind: Sequence[Sequence[Tensor | None]]) -> None:
    """What lies between the common features and the heads gets the weighted sum of its own gradients."""
    for weight, gradients in zip(weights, behind, strict=True):
        weighted = [None if g is None else weight.to(g.dtype) * g for g in gradients]
        accumulate(trainable(objective.between), weighted)


def _spread(gramian: Float[Tensor, "k k"], places: Sequence[int], n: int) -> Float[Tensor, "n n"]:
    """The Gramian of all tasks: those without a gradient have zeros."""
    if len(places) == n:
        return gramian
    every = gramian.new_zeros((n, n))
    for row, place in enumerate(places):
        every[place, list(places)] = gramian[row]
    return every
