"""Non-negative least squares that also answers for dependent columns."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls


def least_squares(columns: Float[np.ndarray, "m n"], target: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """`x >= 0` that minimises `|columns x - target|^2`.

    With columns that depend on each other scipy's active set can go round in a circle. A small multiple of `|x|^2` then
    joins the squares, larger each time, which makes them independent: columns of length 1 change by a 1e-7 at first.
    """
    n = columns.shape[1]
    ridge = 1e-7
    rows, values = columns, target
    while True:
        try:
            return nnls(rows, values)[0]
        except RuntimeError:
            rows, values = np.vstack([columns, ridge * np.eye(n)]), np.append(target, np.zeros(n))
            ridge *= 10
