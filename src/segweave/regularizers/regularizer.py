"""What a regulariser is: one number from parameters and features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Regularizer(nn.Module, ABC):
    """R_i of the objective, before its beta."""

    @abstractmethod
    def forward(self, parameters: Sequence[Tensor], features: Sequence[Tensor]) -> Float[Tensor, ""]:
        """The owner's parameters and the features it reads [B, C, h, w] to a scalar."""
