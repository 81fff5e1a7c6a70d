"""Mean square of features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.regularizers.regularizer import Part, Regularizer


class FeatureNorm(Regularizer):
    """Mean over the feature tensors of each one's mean square, at least 0.

    Every tensor counts the same, whatever its size. Half-precision features are squared in float32, where 256^2 does
    not overflow. 0 without features.
    """

    def forward(self, part: Part) -> Float[Tensor, ""]:
        squares = [(f if f.dtype == torch.float64 else f.float()).square().mean() for f in part.features]
        return torch.stack(squares).mean() if squares else torch.zeros(())
