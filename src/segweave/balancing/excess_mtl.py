"""ExcessMTL (He et al. 2024, equations 6, 7 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import RowBalancer
from segweave.errors import ConfigError

TINY = 1e-7


class ExcessMTL(RowBalancer):
    """More weight for the tasks that are further from their own optimum, by an estimate from their gradients.

    The excess risk of a task is `e_i = sum g_i^2 / sqrt(sum over steps of g_i^2)`, coordinate by coordinate, relative
    to its mean over the first `warmup` steps, in which the weights are equal; then `w_i <- w_i exp(step_size e_i)`, and
    the weights are divided by their sum. The sums of squares only grow, so that the risks fall with the root of the
    steps even where gradients do not. Weights are held as logarithms: torchjd's underflow to 0 and never come back.

    The paper makes the first excess risk of 3 epochs (appendix C.1), the authors' code and LibMTL of one step, which
    is the default here: `warmup` is 3 times the steps of an epoch for the former. Their code multiplies the weights by
    the number of tasks and gives them to the heads too. Their step size is 0.01 by default, and 1 in their example of
    Office-Home; small steps suit the thousands of a segmentation run.

    Args:
        tasks, seed: of `Balancer`.
        step_size: of the weights.
        warmup: steps of a task that make its first excess risk.
        options: of `Comparing`.
    """

    paper = "He et al. 2024, Robust Multi-Task Learning with Excess Risks, arXiv 2402.02009"
    cost = "a backward pass per task, and two copies of the shared parameters per task"

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        step_size: float = 0.01,
        warmup: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if step_size <= 0:
            raise ConfigError(f"balancing.step_size: found {step_size}; expected a number above 0")
        if warmup < 1:
            raise ConfigError(f"balancing.warmup: found {warmup}; expected a whole number of at least 1")
        self.step_size, self.warmup = step_size, warmup

    def weigh(
        self,
        rows: Float[Tensor, "n P"],
        tasks: tuple[str, ...],
        losses: Float[Tensor, " n"],  # noqa: ARG002
        last: bool,
    ) -> Float[Tensor, " n"]:
        zero = rows.new_zeros(())
        squares = rows.square()
        summed = self.memory.stack(tasks, rows.new_zeros(rows.shape[1]), "squares") + squares
        excess = (squares / (summed + TINY).sqrt()).sum(1)
        seen = self.memory.stack(tasks, zero, "seen")
        warm = seen >= self.warmup
        first = self.memory.stack(tasks, zero, "first")
        first = torch.where(warm, first, first + excess / self.warmup)
        logits = self.memory.stack(tasks, zero, "logit")
        grown = torch.where(warm, logits + self.step_size * excess / (first + TINY), logits)
        # tasks that are absent keep their part: those present share what they had together
        grown = grown - grown.logsumexp(0) + logits.logsumexp(0)
        if last:
            for kind, values in (("squares", summed), ("seen", seen + 1), ("first", first), ("logit", grown)):
                self.memory.write(tasks, values, kind)
        return grown.softmax(0)
