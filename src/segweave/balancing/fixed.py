"""Constant weights by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer
from segweave.errors import ConfigError, nearest


class Fixed(LossBalancer):
    """`sum_i w_i L_i` with the weights that the config states; tuned well, they are hard to beat (arXiv 2310.08910).

    They multiply alpha_i, the task's own `weight`, and are what a search over weights changes.

    Args:
        tasks, seed, monitor: of `LossBalancer`.
        weights: by task, at least 0; 1 for a task that is not named.

    Raises:
        ConfigError: a weight below 0, or of a task that the network does not have.
    """

    cost = "none"
    paper = "-"

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        weights: Mapping[str, float] | None = None,
        monitor: bool = False,
    ) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        self.weights = dict(weights or {})
        for task, weight in self.weights.items():
            if task not in self.tasks:
                raise ConfigError(f"balancing.weights.{task}: no such task; did you mean {nearest(task, self.tasks)}?")
            if not weight >= 0:
                raise ConfigError(f"balancing.weights.{task}: found {weight}; expected a number, 0 or more")

    def combine(
        self,
        losses: Float[Tensor, " n"],
        tasks: Sequence[str],
        last: bool,  # noqa: ARG002
        whole: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        weights = whole.new_tensor([self.weights.get(task, 1.0) for task in tasks])
        return (weights * losses).sum(), weights
