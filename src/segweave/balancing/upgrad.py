"""UPGrad (Quinton & Rey 2024, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchjd.aggregation import UPGradWeighting

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.dual_cone import NonNegativeProjector
from segweave.balancing.gramians import Gramian, PerTask, solved
from segweave.errors import ConfigError


class UPGrad(GramianBalancer):
    """Each task gradient is projected on the dual cone of all of them, and the projections are averaged.

    `pi(g) = sum_j v_j g_j`, where `v` minimises `v'Gv` over `v >= u`, `u` the unit vector of the task (proposition 1 of
    the paper); the result is the mean of the `pi(g_i)`, which conflicts with no task. Each task keeps an influence in
    proportion to its own gradient. The projection costs one small problem per task: half a millisecond with 16.

    The weighting is torchjd's, with a projection by non-negative least squares.

    Args:
        tasks, seed: of `Balancer`.
        regularization: share of its own squared length that is added to each gradient's. A larger one keeps the
            weights small where gradients are nearly opposite, and lets conflicts of that relative size through.
        options: of `GramianBalancer`.
    """

    paper = "Quinton & Rey 2024, Jacobian Descent for Multi-Objective Optimization, arXiv 2406.16232"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(
        self, tasks: Sequence[str] = (), seed: int = 0, *, regularization: float = 1e-6, **options: Any
    ) -> None:
        super().__init__(tasks, seed, **options)
        if regularization < 0:
            raise ConfigError(f"balancing.regularization: found {regularization}; expected a number of at least 0")
        self._weighting = UPGradWeighting(projector=NonNegativeProjector(regularization))

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, lambda array: self._weighting(torch.from_numpy(array)).numpy())
