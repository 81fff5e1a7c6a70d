"""IMGrad (Zhou et al. 2025), on top of CAGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import Gramian, Matrix, PerTask, Vector, factor, length, solved
from segweave.balancing.hull import averse, shortest, stationary
from segweave.errors import ConfigError


class IMGrad(GramianBalancer):
    """CAGrad that turns from the mean gradient `g_0` the more, the further `g_0` is from the shortest vector `g_m`.

    With `k = cos(g_0, g_m)`, which is small where one task dominates, `w` on the simplex minimises
    `(3/2 - k) <g_w, g_0> + k c |g_0| |g_w|`, and `d = (g_0 + c |g_0| g_w / |g_w|) / (1 + c^2)`. This is the authors'
    program for NYUv2, which then multiplies by the number of tasks; in theirs for Cityscapes the factor 3/2 - k reaches
    only a part of its term. Where the gradients cancel, the weights are 0. It solves two small problems where CAGrad
    solves one.

    Args:
        tasks, seed: of `Balancer`.
        c: radius of the ball around the mean gradient.
        options: of `GramianBalancer`.
    """

    paper = "Zhou et al. 2025, Injecting Imbalance Sensitivity for Multi-Task Learning, arXiv 2503.08006"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(self, tasks: Sequence[str] = (), seed: int = 0, *, c: float = 0.8, **options: Any) -> None:
        super().__init__(tasks, seed, **options)
        if c < 0:
            raise ConfigError(f"balancing.c: found {c}; expected a number of at least 0")
        self.c = c

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, self._weights)

    def _weights(self, gramian: Matrix) -> Vector:
        rows = factor(gramian)
        mean = np.full(len(rows), 1 / len(rows))
        least = shortest(rows)
        if stationary(rows, mean) or stationary(rows, least):
            return np.zeros(len(rows))
        g_0, g_m = mean @ rows, least @ rows
        cosine = float(g_0 @ g_m) / length(g_0) / length(g_m)
        dual = averse(rows, self.c * cosine / (1.5 - cosine))
        if dual is None:
            return np.zeros(len(rows))
        return (mean + self.c * length(g_0) / length(dual @ rows) * dual) / (1 + self.c**2)
