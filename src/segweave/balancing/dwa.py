"""Dynamic weight average (Liu, Johns & Davison 2019, equation 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer
from segweave.errors import ConfigError

_SMALL, _LARGE = 1e-12, 1e6


class DWA(LossBalancer):
    """`sum_k lambda_k L_k` with `lambda = K softmax(r / T)`, r_k the ratio of the two last epochs' mean losses.

    A task whose loss falls slowly gains weight. All weights are 1 for the first two epochs. A task without a label
    throughout an epoch keeps its means; one that has not two of them yet has weight 1, and the others share K
    among themselves.

    Args:
        tasks, seed, monitor: of `LossBalancer`.
        temperature: T, above 0; the larger, the more alike the weights.

    Raises:
        ConfigError: a temperature that is not above 0.
    """

    cost = "none"
    paper = "Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019"

    def __init__(
        self, tasks: Sequence[str] = (), seed: int = 0, *, temperature: float = 2.0, monitor: bool = False
    ) -> None:
        super().__init__(tasks, seed, monitor=monitor)
        if not temperature > 0:
            raise ConfigError(f"balancing.temperature: found {temperature}; expected a number above 0")
        self.temperature = temperature

    def combine(
        self, losses: Float[Tensor, " n"], tasks: Sequence[str], last: bool, whole: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        self._roll()
        known = [place for place, task in enumerate(tasks) if f"older/{task}" in self.memory]
        weights = torch.ones_like(whole)
        if known:
            names = [tasks[place] for place in known]
            newer, older = (self.memory.stack(names, whole[0], kind) for kind in ("newer", "older"))
            rates = (newer / older.clamp(min=_SMALL)).clamp(max=_LARGE)
            weights[known] = len(known) * torch.softmax(rates / self.temperature, 0)
        if last:
            zero = whole.new_zeros(())
            self.memory.write(tasks, self.memory.stack(tasks, zero, "sum") + whole, "sum")
            self.memory.write(tasks, self.memory.stack(tasks, zero, "count") + 1, "count")
        return (weights * losses).sum(), weights

    def _roll(self) -> None:
        """With the first batch of another epoch, the means move on."""
        now = torch.tensor(self.epoch)
        before = self.memory.get("epoch", now)
        self.memory.put("epoch", now)
        if int(before) == self.epoch:
            return
        for name in self.memory.names("count"):
            if f"newer/{name}" in self.memory:
                self.memory.put(f"older/{name}", self.memory.take(f"newer/{name}"))
            self.memory.put(f"newer/{name}", self.memory.take(f"sum/{name}") / self.memory.take(f"count/{name}"))
