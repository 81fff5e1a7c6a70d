"""Projection on the dual cone of the task gradients: the directions that conflict with none of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchjd.linalg import DualConeProjector

from segweave.balancing.gramians import cosines, factor, lengths
from segweave.balancing.non_negative import least_squares


class NonNegativeProjector(DualConeProjector):
    """torchjd's projector without quadprog: `min v'Gv` over `v >= u`, as non-negative least squares.

    With `G = A A'` and `v = u + x`, it is `min |A'x + A'u|^2` over `x >= 0`. The gradients are first brought to unit
    length, which the cone does not see.

    Args:
        regularization: share of its own squared length that is added to each gradient's, so that gradients that are
            nearly opposite have small weights.
    """

    def __init__(self, regularization: float) -> None:
        self.regularization = regularization

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        """Weights [..., n] of the projections of `U @ J`; G is J J', float64 on the CPU."""
        gramian, vectors = G.numpy(), U.numpy().reshape(-1, len(G))
        norms = lengths(gramian)
        unit = cosines(gramian)
        unit[np.diag_indices(len(unit))] *= 1 + self.regularization
        columns = factor(unit).T
        weights = vectors.copy()
        for row, vector in zip(weights, vectors, strict=True):
            row += _per_length(least_squares(columns, -columns @ (vector * norms)), norms)
        return torch.from_numpy(weights.reshape(U.shape))


def _per_length(coefficients: np.ndarray, norms: np.ndarray) -> np.ndarray:
    return np.divide(coefficients, norms, out=np.zeros_like(norms), where=norms > 0)
