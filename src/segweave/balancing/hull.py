"""The shortest vector in the convex hull of the task gradients, and in that hull moved along their mean.

Gradients are given as the rows of a factor of their Gramian (`gramians.factor`). The shortest vector of the hull is a
non-negative least-squares problem: minimise `|A'x|^2 + (1'x - 1)^2` over `x >= 0`. With `x = s w`, `w` on the simplex
and the best `s`, its value is `q / (1 + q)` with `q = |A'w|^2`, so that `w` is exactly the minimiser of `q`.

CAGrad, IMGrad and ConicGrad each look for one vector `p(shift)`, the shortest of the hull moved by `shift` times the
mean gradient, at the one shift where a monotone condition holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from segweave.balancing.gramians import Matrix, Vector, length
from segweave.balancing.non_negative import least_squares


def shortest(rows: Matrix) -> Vector:
    """Weights on the simplex of the shortest vector in the hull of the rows.

    The rows are brought to length 1 at most, which leaves the weights as they are.
    """
    n = len(rows)
    longest = math.sqrt(np.square(rows).sum(1).max())
    if longest == 0:
        return np.full(n, 1 / n)
    unit = np.vstack([rows.T / longest, np.ones(n)])
    weights = least_squares(unit, np.append(np.zeros(rows.shape[1]), 1.0))
    return weights / weights.sum()


def moved(rows: Matrix, shift: float) -> Vector:
    """Weights of the shortest vector in the hull of `row + shift * mean(rows)`."""
    return shortest(rows + shift * rows.mean(0))


def where(condition: Callable[[float], float], low: float, high: float) -> float:
    """The shift between two at which a condition that falls through 0, or rises through it, is 0."""
    return float(brentq(condition, low, high, rtol=1e-12, disp=False))  # pyright: ignore[reportArgumentType]


def stationary(rows: Matrix, weights: Vector) -> bool:
    """The weighted gradients cancel: their sum is shorter than 1e-4 of their lengths together.

    Lengths are those of the weighted gradients, so that one short gradient by itself is no cancelling.
    """
    return length(weights @ rows) <= _LEAST * float(weights @ np.sqrt(np.square(rows).sum(1)))


_LEAST = 1e-4


def averse(rows: Matrix, radius: float) -> Vector | None:
    """Weights on the simplex that minimise `<g_w, g_0> + radius |g_0| |g_w|`, the dual of CAGrad.

    For a fixed length `t` the norm is `min (|g_w|^2 / t + t) / 2`, and the minimiser is that of the hull moved by
    `t / (radius |g_0|)`; the condition `t = |g_w|` has one solution, as the problem is convex in both.

    Returns:
        None where the gradients of the minimiser cancel: no direction serves every task.
    """
    mean = rows.mean(0)
    longest = max(map(length, rows))
    slope = radius * length(mean)
    if slope <= _LEAST**2 * longest:
        weights = np.zeros(len(rows))
        weights[np.argmin(rows @ mean)] = 1.0
        return weights if (weights @ rows).any() else None

    def excess(shift: float) -> float:
        return length(moved(rows, shift) @ rows) - shift * slope

    low, high = _LEAST**3 * longest / slope, 1.01 * longest / slope
    weights = moved(rows, where(excess, low, high) if excess(low) > 0 else low)
    return None if stationary(rows, weights) else weights
