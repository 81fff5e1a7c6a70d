"""Half the squared length of the weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.regularizers.regularizer import Part, Regularizer


class WeightDecay(Regularizer):
    """`sum(w^2) / 2` over the parameters with two or more axes (Krogh & Hertz 1991), at least 0.

    Biases and the scales and shifts of norms have one axis and are left out: they do not make a network more complex,
    and pulling a norm's scale to 0 switches its channel off. 0 where no such parameter is left.
    """

    def forward(self, part: Part) -> Float[Tensor, ""]:
        squares = [p.square().sum() for p in part.parameters if p.ndim >= 2]
        return torch.stack(squares).sum() / 2 if squares else torch.zeros(())
