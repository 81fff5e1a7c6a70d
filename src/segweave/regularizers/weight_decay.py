"""Half the squared length of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.regularizers.regularizer import Regularizer


class WeightDecay(Regularizer):
    """`sum(w^2) / 2` over parameters of two or more axes, which leaves out biases and norms."""

    def forward(self, parameters: Sequence[Tensor], features: Sequence[Tensor]) -> Float[Tensor, ""]:  # noqa: ARG002
        squares = [p.square().sum() for p in parameters if p.ndim >= 2]
        return torch.stack(squares).sum() / 2 if squares else torch.zeros(())
