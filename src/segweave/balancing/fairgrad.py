"""FairGrad (Ban & Ji 2024, equation 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.fair import fair
from segweave.balancing.gramians import Gramian, PerTask, solved
from segweave.errors import ConfigError


class FairGrad(GramianBalancer):
    """Weights by alpha-fair allocation of the improvement: `G w = w ^ (-1 / alpha)`.

    Larger `alpha` cares more for the task that gains least: 1 is Nash bargaining (proportional fairness), and towards
    infinity it is MGDA's direction. The equation is solved by Newton steps, to 1e-10 for `alpha` up to 5, where
    the authors and torchjd use a general least-squares solver. The size of the update does not follow that of the
    gradients (it is their power `(1 - alpha) / (1 + alpha)`): choose the learning rate anew. The authors' program
    multiplies it by the number of tasks and clips it to length 1.

    Args:
        tasks, seed: of `Balancer`.
        alpha: above 0.
        options: of `GramianBalancer`.
    """

    paper = "Ban & Ji 2024, Fair Resource Allocation in Multi-Task Learning, arXiv 2402.15638"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(self, tasks: Sequence[str] = (), seed: int = 0, *, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(tasks, seed, **options)
        if alpha <= 0:
            raise ConfigError(f"balancing.alpha: found {alpha}; expected a number above 0")
        self.alpha = alpha

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, lambda array: fair(array, 1 / self.alpha), degree=-self.alpha / (1 + self.alpha))
