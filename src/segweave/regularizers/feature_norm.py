"""Mean square of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.regularizers.regularizer import Regularizer


class FeatureNorm(Regularizer):
    """Mean over the feature tensors of each one's mean square; 0 without features."""

    def forward(self, parameters: Sequence[Tensor], features: Sequence[Tensor]) -> Float[Tensor, ""]:  # noqa: ARG002
        return torch.stack([f.float().square().mean() for f in features]).mean() if features else torch.zeros(())
