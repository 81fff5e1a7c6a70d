"""MGDA (Desideri 2012; Sener & Koltun 2018, equation 3)."""

from __future__ import annotations

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import Gramian, PerTask, factor, solved
from segweave.balancing.hull import shortest


class MGDA(GramianBalancer):
    """The shortest vector in the convex hull of the task gradients: no task gets worse along it.

    `min |sum_i w_i g_i|^2` over `w >= 0`, `sum w = 1` (equation 3), solved exactly by an active set where the paper
    takes Frank-Wolfe steps. A task with a small gradient dominates, and a zero gradient stops every task: not for
    losses of very different size; the gradients are not normalised, which the paper's program offers. The weights sum
    to 1, so that the step is shorter than that of a plain sum.
    """

    paper = "Sener & Koltun 2018, Multi-Task Learning as Multi-Objective Optimization, arXiv 1810.04650"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, lambda array: shortest(factor(array)))
