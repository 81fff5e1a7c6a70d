"""ConFIG (Liu, Chu & Thuerey 2025, equation 2)."""

from __future__ import annotations

import numpy as np

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import NOISE, Gramian, Matrix, PerTask, Vector, cosines, lengths, solved


class ConFIG(GramianBalancer):
    """The direction that has the same angle, the smallest possible, to every task gradient.

    With the unit gradients as the rows of `U`, the direction is that of `d = pinv(U) 1`, and its length the sum of the
    projections `<g_i, d / |d|>` (equation 2). As `pinv(U) = U' pinv(U U')`, the weights are `x_i / |g_i|` times a
    common factor, with `x = pinv(cosines) 1`. Nearly opposite gradients give large weights on a short sum; where no
    direction has the same angle to all, it is the nearest in the least-squares sense.
    """

    paper = "Liu, Chu & Thuerey 2025, ConFIG: Towards Conflict-free Training of PINNs, arXiv 2408.11104"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, _weights)


def _weights(gramian: Matrix) -> Vector:
    norms, unit = lengths(gramian), cosines(gramian)
    x = np.linalg.pinv(unit, rcond=NOISE, hermitian=True) @ (norms > 0)
    squared = x @ unit @ x
    if squared <= NOISE * (x @ x):
        return np.zeros(len(norms))
    x *= (unit @ x * norms).sum() / squared
    return np.divide(x, norms, out=np.zeros_like(norms), where=norms > 0)
