"""PCGrad (Yu et al. 2020, algorithm 1)."""

from __future__ import annotations

import numpy as np
import torch

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import Gramian, Matrix, PerTask, Vector, solved


class PCGrad(GramianBalancer):
    """Each task gradient loses its part along every other one that it conflicts with; the results are added.

    `g_i <- g_i - <g_i, g_j> / |g_j|^2 g_j` where `<g_i, g_j> < 0`, the `j` in random order and `g_j` as it was, for
    each `i` (algorithm 1). It acts on the coefficients of the gradients and so needs their Gramian only; the order is a
    function of (seed, step), and does not depend on the order of the tasks. The result may still conflict with a task
    where there are more than two. Without conflict it is the plain sum.
    """

    paper = "Yu et al. 2020, Gradient Surgery for Multi-Task Learning, arXiv 2001.06782"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        orders = torch.rand(len(tasks), len(tasks), generator=self.memory.generator(self.seed)).argsort(1).numpy()
        by_name = np.argsort(np.array(tasks))

        def surgery(array: Matrix) -> Vector:
            weights = np.empty(len(tasks))
            weights[by_name] = project(array[np.ix_(by_name, by_name)], orders)
            return weights

        return solved(gramian, surgery)


def project(gramian: Matrix, orders: np.ndarray) -> Vector:
    """Weights of the sum of projected gradients, all of them at once.

    Args:
        gramian: [n, n].
        orders: [n, n], in row i the order in which the gradient of task i meets the others; i itself is passed over.
    """
    n = len(gramian)
    tasks = np.arange(n)
    coefficients = np.eye(n)
    squared = np.maximum(gramian.diagonal(), np.finfo(float).tiny)
    for met in orders.T:
        inner = (coefficients * gramian[met]).sum(1)
        removed = np.where((inner < 0) & (met != tasks), inner / squared[met], 0.0)
        coefficients[tasks, met] -= removed
    return coefficients.sum(0)
