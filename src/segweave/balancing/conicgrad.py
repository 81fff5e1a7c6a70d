"""ConicGrad (Hassanpour et al. 2025), its problem solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import Gramian, Matrix, PerTask, Vector, factor, length, solved
from segweave.balancing.hull import moved, stationary, where
from segweave.errors import ConfigError


class ConicGrad(GramianBalancer):
    """The direction in a cone around the mean gradient `g_0` that helps the worst-off task most.

    `max_d min_i <g_i, d>` with `<g_0, d> >= c |g_0| |d|`, at length `|d| = |g_0|`. The problem is the paper's, the way
    to its solution is not: the paper has a closed form of `d` for given weights, and no program of its authors was
    found. Here the problem is solved to optimality in each step, without state: `d` is the shortest vector of the hull
    of `g_i + m g_0` for the least `m >= 0` that brings it into the cone, and MGDA's direction where that is inside
    already. Where the gradients cancel, the weights are 0.

    Args:
        tasks, seed: of `Balancer`.
        c: cosine of the widest angle to the mean gradient, from 0 to 0.999; a larger one stays closer to the mean.
        options: of `GramianBalancer`.
    """

    paper = "Hassanpour et al. 2025, Fantastic Multi-Task Gradient Updates In a Cone, arXiv 2502.00217"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(self, tasks: Sequence[str] = (), seed: int = 0, *, c: float = 0.5, **options: Any) -> None:
        super().__init__(tasks, seed, **options)
        if not 0 <= c <= 0.999:
            raise ConfigError(f"balancing.c: found {c}; expected a number from 0 to 0.999")
        self.c = c

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, self._weights)

    def _weights(self, gramian: Matrix) -> Vector:
        rows = factor(gramian)
        n = len(rows)
        mean = rows.mean(0)
        if stationary(rows, np.full(n, 1 / n)) or stationary(rows, moved(rows, 0.0)):
            return np.zeros(n)

        def mixed(shift: float) -> Vector:
            return moved(rows, shift) + shift / n

        def inside(shift: float) -> float:
            # positive inside the cone; the direction turns towards the mean as the shift grows
            direction = mixed(shift) @ rows
            return float(mean @ direction) - self.c * length(mean) * length(direction)

        shift = 0.0
        if inside(0.0) < 0:
            high = 1.0
            while inside(high) <= 0:
                high *= 4
            shift = where(inside, 0.0, high)
        weights = mixed(shift)
        return weights * (length(mean) / length(weights @ rows))
