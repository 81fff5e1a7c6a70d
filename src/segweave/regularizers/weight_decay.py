"""Half the squared length of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.regularizers.regularizer import Regularizer


class WeightDecay(Regularizer):
    """`sum(w^2) / 2` over the parameters with two or more axes (Krogh & Hertz 1991), at least 0; features are not read.

    Biases and the scales and shifts of norms have one axis and are left out: they do not make a network more complex,
    and pulling a norm's scale to 0 switches its channel off. 0 where no such parameter is left.
    """

    def forward(self, parameters: Sequence[Tensor], features: Sequence[Tensor]) -> Float[Tensor, ""]:  # noqa: ARG002
        squares = [p.square().sum() for p in parameters if p.ndim >= 2]
        return torch.stack(squares).sum() / 2 if squares else torch.zeros(())
