"""What a regulariser is: one number from parameters and features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Regularizer(nn.Module, ABC):
    """R_i of the objective `sum_i alpha_i L_i + beta_i R_i`, before its beta. Its gradient is never reweighted."""

    @abstractmethod
    def forward(self, parameters: Sequence[Tensor], features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """One number that grows with what is to be kept small.

        Args:
            parameters: the owner's, a task's or the shared ones, of any shape.
            features: what the owner reads, each [B, C, h, w]; the sizes may differ.
        """
