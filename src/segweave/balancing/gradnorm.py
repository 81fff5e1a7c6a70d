"""GradNorm (Chen et al. 2018, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import Gramian, PerTask
from segweave.errors import ConfigError

BETAS = (0.9, 0.999)
TINY = 1e-8


class GradNorm(GramianBalancer):
    """Learned task weights that bring the weighted gradients to one length, longer for tasks that train slowly.

    With `G_i = w_i |g_i|`, `r_i` the loss ratio `L_i / L_i(0)` over the mean ratio, and the target `mean(G) r_i^alpha`
    held fixed, Adam takes a step on `sum_i |G_i - target_i|` (equation 2), and the weights are scaled to sum to the
    number of tasks, none below 0. The weights of a step are those learned until then; they start at 1, and no host
    reads them. The weights do not reach the heads. Lengths are those of the chosen space: `last` is the layer of the
    paper. `L_i(0)` is the first loss above 0; for a cross-entropy the paper may take the logarithm of the number of
    classes, which is what the first loss is at a network that knows nothing. LibMTL learns the logarithms of the
    weights instead, from the second epoch on, with the optimizer of the network.

    Args:
        tasks, seed: of `Balancer`.
        alpha: of the restoring force; 0 makes all lengths equal.
        lr: of the weights.
        options: of `GramianBalancer`.
    """

    paper = "Chen et al. 2018, GradNorm, arXiv 1711.02257"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(
        self, tasks: Sequence[str] = (), seed: int = 0, *, alpha: float = 1.5, lr: float = 0.025, **options: Any
    ) -> None:
        super().__init__(tasks, seed, **options)
        if alpha < 0:
            raise ConfigError(f"balancing.alpha: found {alpha}; expected a number of at least 0")
        if lr <= 0:
            raise ConfigError(f"balancing.lr: found {lr}; expected a number above 0")
        self.alpha, self.lr = alpha, lr

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:
        one = gramian.new_ones(())
        held = self.memory.stack(tasks, one, "weight")
        together = held.sum()
        weights = torch.where(together > 0, held * len(tasks) / together, 1.0)
        if not last:
            return weights
        norms = gramian.diagonal().clamp(min=0).sqrt()
        first = torch.stack([self.memory.get(f"first/{t}", loss) for t, loss in zip(tasks, losses, strict=True)])
        first = torch.where(first > 0, first, losses)
        ratios = torch.where(first > 0, losses / first, 1.0)
        rates = torch.where(ratios.mean() > 0, ratios / ratios.mean(), 1.0)
        lengths = weights * norms
        slopes = torch.sign(lengths - lengths.mean() * rates**self.alpha) * norms
        # Adam is blind to a common factor; without this one its epsilon would not be
        slopes = torch.where(norms.sum() > 0, slopes / norms.mean(), 0.0)
        count = self.memory.stack(tasks, 0 * one, "count") + 1
        mean = self.memory.stack(tasks, 0 * one, "slope").lerp(slopes, 1 - BETAS[0])
        square = self.memory.stack(tasks, 0 * one, "square").lerp(slopes.square(), 1 - BETAS[1])
        step = mean / (1 - BETAS[0] ** count) / ((square / (1 - BETAS[1] ** count)).sqrt() + TINY)
        learned = (weights - self.lr * step).clamp(min=TINY)
        learned = learned * together / learned.sum()
        for kind, values in (
            ("weight", learned),
            ("first", first),
            ("count", count),
            ("slope", mean),
            ("square", square),
        ):
            self.memory.write(tasks, values, kind)
        return weights
