"""Nash-MTL (Navon et al. 2022, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.fair import fair
from segweave.balancing.gramians import Gramian, Matrix, PerTask, Vector, solved
from segweave.errors import ConfigError


class NashMTL(GramianBalancer):
    """The Nash bargaining solution: weights with `G w = 1 / w` (claim 3.1), by Newton steps, to 1e-10.

    As in the authors' program the Gramian is divided by its Frobenius norm, and the weights are scaled down where the
    weighted sum is longer than `max_norm`. Rescaling the loss of a task does not change the direction. Nearly opposite
    gradients have no bargain and get large weights: keep `max_norm`. That program solves the equation roughly, by a
    sequence of convex problems, and multiplies the losses by the weights, so that private parameters get them too.

    Args:
        tasks, seed: of `Balancer`.
        update_every: steps between new weights; in between, and for the tasks that have some, the last ones are used.
        max_norm: of the weighted sum of gradients; 0 is no limit.
        options: of `GramianBalancer`.
    """

    paper = "Navon et al. 2022, Multi-Task Learning as a Bargaining Game, arXiv 2202.01017"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        update_every: int = 1,
        max_norm: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if update_every < 1:
            raise ConfigError(f"balancing.update_every: found {update_every}; expected a whole number of at least 1")
        if max_norm < 0:
            raise ConfigError(f"balancing.max_norm: found {max_norm}; expected a number of at least 0")
        self.update_every = update_every
        self.max_norm = max_norm

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:
        if len(tasks) == 1:
            return torch.ones_like(losses)
        known = all(f"bargain/{task}" in self.memory for task in tasks)
        if known and self.memory.step % self.update_every:
            weights = self.memory.stack(tasks, losses.new_ones(()), "bargain")
        else:
            weights = solved(gramian, _bargain)
            if last and self.update_every > 1:
                self.memory.write(tasks, weights, "bargain")
        if self.max_norm == 0:
            return weights
        norm = (weights @ gramian @ weights).clamp(min=0).sqrt()
        return torch.where(norm > self.max_norm, weights * (self.max_norm / norm), weights)


def _bargain(gramian: Matrix) -> Vector:
    return fair(gramian / np.linalg.norm(gramian), 1.0)
