"""The positive weights with `(G a)_i = a_i ^ -power`: each task gains by the same rule from what the others do."""

from __future__ import annotations

import numpy as np

from segweave.balancing.gramians import NOISE, Matrix, Vector, cosines, lengths

_LEAST = 1e-30
"""Of a weight, in units of that for orthogonal gradients: a task that gains far more than the others needs none."""


def fair(gramian: Matrix, power: float) -> Vector:
    """Solves `G a = a ^ -power` for `a > 0` by Newton steps on the convex potential of this equation.

    The potential is `a'Ga / 2 - sum_i phi(a_i)` with `phi' = a ^ -power`; for `power` 1, `phi` is the logarithm (Nash).
    The unknowns are the weights in units of those for orthogonal gradients, `|g_i| ^ (-2 / (1 + power))`, so that the
    sizes of the gradients do not matter, and a step divides one of them by 10 at most: the equation is concave in each,
    and steps that come from below need no damping. Opposite gradients, which have no solution, get large finite
    weights by a least eigenvalue of the cosines; a task whose gradient is 0 gets the mean weight of the others.
    """
    norms = lengths(gramian)
    alive = norms > 0
    if not alive.all():
        weights = np.ones(len(norms))
        if alive.any():
            weights[alive] = fair(gramian[np.ix_(alive, alive)], power)
            weights[~alive] = weights[alive].mean()
        return weights
    quadratic = cosines(gramian)
    missing = max(NOISE - float(np.linalg.eigvalsh(quadratic)[0]), 0.0)
    quadratic[np.diag_indices(len(norms))] += missing
    alone = norms ** (-2 / (1 + power))
    root = norms * alone
    quadratic *= np.outer(root, root)
    x = np.ones(len(norms))
    for _ in range(200):
        pull = root**2 * x**-power
        hessian = quadratic + np.diag(power * pull / x)
        scale = hessian.diagonal() ** -0.5
        step = scale * np.linalg.solve(scale[:, None] * hessian * scale, scale * (pull - quadratic @ x))
        before, x = x, np.maximum(x + step, np.maximum(0.1 * x, _LEAST))
        # the error left is about the square of a last step
        if (np.abs(x / before - 1) <= 1e-6).all():
            break
    return x * alone
