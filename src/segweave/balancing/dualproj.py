"""DualProj (Lopez-Paz & Ranzato 2017, equation 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchjd.aggregation import DualProjWeighting

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.dual_cone import NonNegativeProjector
from segweave.balancing.gramians import Gramian, PerTask, solved
from segweave.errors import ConfigError


class DualProj(GramianBalancer):
    """The mean gradient, projected on the dual cone of the task gradients.

    `pi(g_0) = sum_j v_j g_j`, where `v` minimises `v'Gv` over `v >= 1 / n` (equation 11 of the paper, with the mean
    gradient for the new task): the nearest direction to the mean that conflicts with no task, and the mean itself where
    it conflicts with none. A task with a large gradient rules the mean; `upgrad` treats tasks more alike.

    The weighting is torchjd's, with a projection by non-negative least squares.

    Args:
        tasks, seed: of `Balancer`.
        regularization: share of its own squared length that is added to each gradient's. A larger one keeps the
            weights small where gradients are nearly opposite, and lets conflicts of that relative size through.
        options: of `GramianBalancer`.
    """

    paper = "Lopez-Paz & Ranzato 2017, Gradient Episodic Memory for Continual Learning, arXiv 1706.08840"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(
        self, tasks: Sequence[str] = (), seed: int = 0, *, regularization: float = 1e-6, **options: Any
    ) -> None:
        super().__init__(tasks, seed, **options)
        if regularization < 0:
            raise ConfigError(f"balancing.regularization: found {regularization}; expected a number of at least 0")
        self._weighting = DualProjWeighting(projector=NonNegativeProjector(regularization))

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, lambda array: self._weighting(torch.from_numpy(array)).numpy())
