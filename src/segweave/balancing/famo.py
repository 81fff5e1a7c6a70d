"""Fast adaptive multitask optimization, FAMO (Liu et al. 2023, arXiv 2306.03792, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer
from segweave.errors import ConfigError

_SMALL = 1e-8
_BETAS = (0.9, 0.999)


class FAMO(LossBalancer):
    """Lets the logarithms of all losses fall alike, reading nothing but losses: weights `c z_i / L_i`, `sum 1`.

    `z = softmax(w)` and `c = 1 / sum_i (z_i / L_i)`. The least possible loss is taken to be 0, the default of the
    authors' code; one that can be negative has to be shifted.

    After a step the losses of the SAME batch are measured once more, by a forward pass without gradients, and w moves
    by one step of Adam along the gradient of `sum_i z_i (log L_i before - log L_i after)`, with decay. The second pass
    draws the same dropout, normalises with the batch's own statistics as the first one did, and leaves the running ones
    alone. A task that is absent keeps its w and its moments; the softmax is over those that are there.

    Args:
        tasks, seed, monitor: of `LossBalancer`.
        lr: of w; 0.025 in the paper.
        weight_decay: gamma, the decay of w, added to its gradient (not AdamW's). LibMTL and the authors' script for
            QM9 have 1e-3, their script for CelebA 1e-2; the defaults in their files are 1e-2 and 1e-5.
        exact: take the second forward pass. Without it, the losses of the next batch stand for the second
            measurement: NOT the published algorithm, and results say so.

    Raises:
        ConfigError: a rate or a decay below 0.
    """

    cost = "a second forward pass; none with exact: false"
    paper = "Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, arXiv 2306.03792"
    ahead = True

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        lr: float = 0.025,
        weight_decay: float = 1e-3,
        exact: bool = True,
        monitor: bool = False,
    ) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ConfigError(f"balancing.{name}: found {value}; expected a number, 0 or more")
        self.lr, self.weight_decay, self.exact = lr, weight_decay, exact

    @property
    def label(self) -> str:
        return "famo" if self.exact else "famo (next-step loss)"

    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool, whole: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        if not tasks:
            return losses.sum(), losses
        measured = [place for place, task in enumerate(tasks) if f"before/{task}" in self.memory]
        if measured and self.first and not self.exact:
            self._move([tasks[place] for place in measured], whole[measured])
        share = torch.softmax(self.memory.stack(tasks, whole.new_zeros(()), "w"), 0)
        inverse = share / (whole.clamp(min=0) + _SMALL)
        weights = inverse / inverse.sum()
        if last:
            self.memory.write(tasks, whole, "before")
        return (weights * losses).sum(), weights

    def after(self, tasks: tuple[str, ...], losses: Callable[[], Float[Tensor, " n"]]) -> None:
        if self.exact and tasks:
            self._move(tasks, losses().float())

    def _move(self, tasks: Sequence[str], now: Float[Tensor, " n"]) -> None:
        """One step of Adam on w; none where a measurement is not finite."""
        zero = now.new_zeros(())
        held = [self.memory.stack(tasks, zero, kind) for kind in ("w", "mean", "square", "steps")]
        w, mean, square, steps = held
        before = self.memory.stack(tasks, zero, "before").clamp(min=0) + _SMALL
        fallen = before.log() - (now.clamp(min=0) + _SMALL).log()
        share = torch.softmax(w, 0)
        gradient = share * (fallen - (share * fallen).sum()) + self.weight_decay * w
        mean = _BETAS[0] * mean + (1 - _BETAS[0]) * gradient
        square = _BETAS[1] * square + (1 - _BETAS[1]) * gradient.square()
        steps = steps + 1
        size = (square / (1 - _BETAS[1] ** steps)).sqrt() + _SMALL
        w = w - self.lr * mean / (1 - _BETAS[0] ** steps) / size
        usable = gradient.isfinite().all()
        for kind, old, new in zip(("w", "mean", "square", "steps"), held, (w, mean, square, steps), strict=True):
            self.memory.write(tasks, torch.where(usable, new, old), kind)
