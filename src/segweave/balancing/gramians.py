"""A T x T Gramian on the host: one copy from the device, float64 maths in NumPy, float32 weights back.

A Gramian is tiny, and a solver that runs on the device would wait for it many times. Float32 inner products carry an
error of about 1e-7 |g_i| |g_j|, so that ranks and zeros are judged on the cosines, where every task counts alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Gramian = Float[Tensor, "n n"]
PerTask = Float[Tensor, " n"]
Matrix = Float[np.ndarray, "n r"]
Vector = Float[np.ndarray, " n"]

NOISE = 1e-6
"""Relative size below which a number made of float32 inner products is taken for 0."""


def solved(gramian: Gramian, solve: Callable[[Matrix], Vector], degree: float = 0.0) -> PerTask:
    """Weights by `solve`, which gets the Gramian as float64 divided by its mean diagonal, at least 2 x 2.

    One task alone has weight 1. Equal weights 1 / n are the answer where every gradient is 0, or where one
    overflowed: the step is skipped then, whatever the weights.

    Args:
        degree: the weights of a Gramian `k` times as large are `k ** degree` times as large.
    """
    n = len(gramian)
    if n == 1:
        return torch.ones_like(gramian[0])
    array = gramian.detach().to("cpu", torch.float64).numpy()
    scale = array.trace() / n
    if not np.isfinite(array).all() or scale <= 0:
        return torch.full_like(gramian[0], 1 / n)
    weights = solve(array / scale) * scale**degree
    return torch.from_numpy(weights).to(gramian.device, gramian.dtype)


def lengths(gramian: Matrix) -> Vector:
    """Norms of the gradients."""
    return np.sqrt(gramian.diagonal().clip(min=0))


def length(vector: Float[np.ndarray, " r"]) -> float:
    """Euclidean norm."""
    return math.sqrt(vector @ vector)


def cosines(gramian: Matrix) -> Matrix:
    """The Gramian of the gradients at unit length; rows and columns of a zero gradient are 0."""
    norms = lengths(gramian)
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return inverse[:, None] * gramian * inverse


def factor(gramian: Matrix) -> Matrix:
    """Rows with the inner products of `gramian`: the gradients themselves, turned into n coordinates.

    The cosines are what is factored, so that a short gradient beside a long one keeps its own seven digits.
    """
    values, vectors = np.linalg.eigh(cosines(gramian))
    return lengths(gramian)[:, None] * vectors * np.sqrt(values.clip(min=0))


def cleaned(gramian: Matrix) -> Matrix:
    """The Gramian without the directions that float32 cannot tell from 0, for methods that divide by them."""
    norms = lengths(gramian)
    values, vectors = np.linalg.eigh(cosines(gramian))
    kept = values > NOISE * len(values)
    rows = norms[:, None] * vectors[:, kept] * np.sqrt(values[kept])
    return rows @ rows.T
