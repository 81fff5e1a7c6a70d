"""CAGrad (Liu et al. 2021, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import Gramian, Matrix, PerTask, Vector, factor, length, solved
from segweave.balancing.hull import averse
from segweave.errors import ConfigError


class CAGrad(GramianBalancer):
    """The direction near the mean gradient `g_0` that helps the worst-off task most.

    `max_d min_i <g_i, d>` with `|d - g_0| <= c |g_0|`. By its dual, `d = g_0 + c |g_0| g_w / |g_w|` where `w`, on the
    simplex, minimises `<g_w, g_0> + c |g_0| |g_w|` (algorithm 1), which is solved to optimality. The length is the
    paper's; the authors' program takes `n / (1 + c^2)` times `d`, for n tasks, which Adam does not see and SGD does.
    Where the gradients cancel, `g_w = 0`, the weights are 0.

    Args:
        tasks, seed: of `Balancer`.
        c: radius of the ball around the mean gradient; 0 is the mean, 1 and more is MGDA's direction in the limit.
        options: of `GramianBalancer`.
    """

    paper = "Liu et al. 2021, Conflict-Averse Gradient Descent for Multi-task Learning, arXiv 2110.14048"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(self, tasks: Sequence[str] = (), seed: int = 0, *, c: float = 0.4, **options: Any) -> None:
        super().__init__(tasks, seed, **options)
        if c < 0:
            raise ConfigError(f"balancing.c: found {c}; expected a number of at least 0")
        self.c = c

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, self._weights)

    def _weights(self, gramian: Matrix) -> Vector:
        rows = factor(gramian)
        mean = np.full(len(rows), 1 / len(rows))
        if self.c == 0:
            return mean
        dual = averse(rows, self.c)
        if dual is None:
            return np.zeros(len(rows))
        return mean + self.c * length(mean @ rows) / length(dual @ rows) * dual
