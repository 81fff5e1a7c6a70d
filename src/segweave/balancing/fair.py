"""The positive weights with `(G a)_i = a_i ^ -power`: each task gains by the same rule from what the others do."""

from __future__ import annotations

import numpy as np

from segweave.balancing.gramians import NOISE, Matrix, Vector, cosines, lengths


def fair(gramian: Matrix, power: float) -> Vector:
    """Solves `G a = a ^ -power` for `a > 0` by damped Newton steps on the convex potential of this equation.

    The potential is `a'Ga / 2 - sum_i phi(a_i)` with `phi' = a ^ -power`; for `power` 1, `phi` is the logarithm (Nash).
    In units of the solution for orthogonal gradients, `a_i = |g_i| ^ (-2 / (1 + power))`, its quadratic part is that
    of the cosines, so that the steps do not depend on the sizes of the gradients. Opposite gradients, which have no
    solution, get large finite weights by a least eigenvalue of the cosines; a task whose gradient is 0 gets the mean
    weight of the others.
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
    z = root.copy()
    for _ in range(200):
        a = z / root
        gradient = quadratic @ z - root * a**-power
        hessian = quadratic + np.diag(power * a ** (-power - 1))
        step = np.linalg.solve(hessian, -gradient)
        decrement = -gradient @ step
        if decrement <= 1e-22 * (z @ z):
            break
        size, limit = 1.0, (step / z).min()
        if limit < -0.99:
            size = -0.99 / limit
        start = _potential(quadratic, z, root, power)
        while size > 1e-10 and decrement > 1e-9 * (z @ z):
            if _potential(quadratic, z + size * step, root, power) <= start - 0.25 * size * decrement:
                break
            size /= 2
        z = z + size * step
    return z / root * alone


def _potential(quadratic: Matrix, z: Vector, root: Vector, power: float) -> float:
    a = z / root
    if power == 1:
        return float(z @ quadratic @ z / 2 - (root**2 * np.log(a)).sum())
    return float(z @ quadratic @ z / 2 - (root**2 * a ** (1 - power)).sum() / (1 - power))
