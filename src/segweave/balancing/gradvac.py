"""Gradient Vaccine (Wang et al. 2021, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import Gramian, Matrix, PerTask, Vector, lengths, solved
from segweave.errors import ConfigError

TINY = 1e-8


class GradVac(GramianBalancer):
    """Each task gradient is turned until its cosine with every other one reaches a running mean of that cosine.

    Where `phi_ij = cos(g_i, g_j)` is below its target `t_ij`, `g_i` gets
    `|g_i| (t sqrt(1 - phi^2) - phi sqrt(1 - t^2)) / (|g_j| sqrt(1 - t^2))` times `g_j`, and then
    `t <- (1 - beta) t + beta phi` (algorithm 1), the `j` in random order for each `i`; the results are added. With all
    targets 0, as at the start, it is PCGrad. A target near 1 makes large weights when the gradients part.

    The targets are those of all shared parameters together (the paper's whole model), and move each time. LibMTL moves
    one only where the cosine is below it, so that no target ever rises.

    Args:
        tasks, seed: of `Balancer`.
        beta: of the running mean, from 0 to 1.
        options: of `GramianBalancer`.
    """

    paper = "Wang et al. 2021, Gradient Vaccine, arXiv 2010.05874"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, beta: float = 0.5, **options: Any) -> None:
        super().__init__(tasks, seed, **options)
        if not 0 <= beta <= 1:
            raise ConfigError(f"balancing.beta: found {beta}; expected a number from 0 to 1")
        self.beta = beta
        self._places = {task: place for place, task in enumerate(sorted(tasks))}
        # the targets of another set of tasks are others
        self._name = f"targets/{'|'.join(self._places)}"

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        orders = torch.rand(len(tasks), len(tasks), generator=self.memory.generator(self.seed)).argsort(1).numpy()
        by_name = np.argsort(np.array(tasks))
        # one tensor for all pairs, in the order of the names: a tensor per pair would cost more than the method
        places = sorted(self._places[task] for task in tasks)
        pairs = np.ix_(places, places)
        everyone = self.memory.get(self._name, torch.zeros((len(self._places),) * 2, dtype=torch.float64)).clone()

        def vaccinate(array: Matrix) -> Vector:
            targets = everyone.numpy()[pairs]
            weights = np.empty(len(tasks))
            weights[by_name] = vaccinated(array[np.ix_(by_name, by_name)], orders, targets, self.beta)
            everyone.numpy()[pairs] = targets
            return weights

        weights = solved(gramian, vaccinate)
        if last:
            self.memory.put(self._name, everyone)
        return weights


def vaccinated(gramian: Matrix, orders: np.ndarray, targets: Matrix, beta: float) -> Vector:
    """Weights of the sum of the turned gradients, all turned at once; `targets` is advanced in place.

    Args:
        gramian: [n, n].
        orders: [n, n], in row i the order in which the gradient of task i meets the others; i itself is passed over.
        targets: [n, n], of the cosine of each gradient i, turned already by those before j, with gradient j.
        beta: of the running mean.
    """
    n = len(gramian)
    tasks = np.arange(n)
    coefficients = np.eye(n)
    norms = lengths(gramian)
    for met in orders.T:
        inner = coefficients @ gramian
        own = np.sqrt((inner * coefficients).sum(1).clip(min=0))
        cosine = (inner[tasks, met] / (own * norms[met] + TINY)).clip(-1, 1)
        target = targets[tasks, met]
        across, wanted = np.sqrt(1 - cosine**2), np.sqrt((1 - target**2).clip(min=0))
        added = own * (target * across - cosine * wanted) / (norms[met] * wanted + TINY)
        others = met != tasks
        coefficients[tasks, met] += np.where(others & (cosine < target), added, 0.0)
        targets[tasks, met] = np.where(others, (1 - beta) * target + beta * cosine, target)
    return coefficients.sum(0)
