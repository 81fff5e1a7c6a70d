"""MGDA, the methods on a moved hull, and projections on the dual cone: proven optimal, and against torchjd."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from drawn import few, jacobians, many, weigh
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls
from torchjd import aggregation

from segweave.balancing import non_negative
from segweave.balancing.gramians import cleaned, factor
from segweave.balancing.hull import averse, shortest


def simplex_minimum(cost: Callable[[np.ndarray], float], n: int) -> float:
    """The least cost that scipy's SLSQP finds on the simplex, from the middle and from near each corner."""
    starts = [np.full(n, 1 / n), *(0.1 / n + 0.9 * np.eye(n))]
    constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
    return min(
        float(minimize(cost, start, bounds=[(0, 1)] * n, constraints=constraint, method="SLSQP", tol=1e-12).fun)
        for start in starts
    )


@given(jacobians())
@many
def test_a_factor_has_the_inner_products(jacobian: np.ndarray) -> None:
    gramian = jacobian @ jacobian.T
    rows = factor(gramian)
    norms = np.linalg.norm(jacobian, axis=1)
    assert np.abs((rows @ rows.T - gramian) / np.outer(norms, norms)).max() < 1e-12
    np.testing.assert_allclose(cleaned(gramian), gramian, rtol=1e-5, atol=1e-6 * norms.max() ** 2)


@given(jacobians())
@few
def test_mgda_is_the_shortest_vector_of_the_hull(jacobian: np.ndarray) -> None:
    gramian, weights = jacobian @ jacobian.T, weigh("mgda", jacobian)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    # optimality: no gradient makes a smaller inner product with the vector than the vector itself does
    inner, squared = gramian @ weights, weights @ gramian @ weights
    assert (inner - squared).min() > -1e-9 * gramian.max()
    theirs = aggregation.MGDAWeighting(1e-9, 500)(torch.from_numpy(gramian)).numpy()
    assert squared <= theirs @ gramian @ theirs + 1e-12
    assert np.linalg.norm((weights - theirs) @ jacobian) < 0.02 * np.sqrt(gramian.max())


@given(jacobians(), st.sampled_from([0.2, 0.5, 0.9]))
@few
def test_cagrad_solves_its_dual_and_its_primal(jacobian: np.ndarray, c: float) -> None:
    gramian, n = jacobian @ jacobian.T, len(jacobian)
    mean = np.full(n, 1 / n)
    slope = c * np.sqrt(mean @ gramian @ mean)
    dual = averse(factor(gramian), c)
    assert dual is not None
    # optimality (KKT) of the dual on the simplex
    slopes = gramian @ mean + slope * gramian @ dual / np.sqrt(dual @ gramian @ dual)
    assert (slopes - dual @ slopes).min() > -1e-8 * gramian.max()

    def cost(w: np.ndarray) -> float:
        return float(w @ gramian @ mean + slope * np.sqrt(w @ gramian @ w))

    assert cost(dual) <= simplex_minimum(cost, n) + 1e-7 * gramian.max()
    # strong duality: the worst-off task gains what the dual says, within the ball
    weights = weigh("cagrad", jacobian, c=c)
    assert (gramian @ weights).min() == pytest.approx(cost(dual), abs=1e-7 * gramian.max())
    assert np.sqrt((weights - mean) @ gramian @ (weights - mean)) == pytest.approx(slope)
    np.testing.assert_allclose(weigh("cagrad", jacobian, c=0.0), mean)


@given(jacobians(4), st.sampled_from([0.4, 0.8]))
@few
def test_imgrad_is_the_program_of_its_authors(jacobian: np.ndarray, c: float) -> None:
    gramian, n = jacobian @ jacobian.T, len(jacobian)
    mean, short = np.full(n, 1 / n), shortest(factor(gramian))
    k = mean @ gramian @ short / np.sqrt((mean @ gramian @ mean) * (short @ gramian @ short))
    slope = c * np.sqrt(mean @ gramian @ mean)

    def cost(w: np.ndarray) -> float:
        return float((1.5 - k) * (w @ gramian @ mean) + k * slope * np.sqrt(w @ gramian @ w))

    weights = weigh("imgrad", jacobian, c=c) * (1 + c**2)
    dual = weights - mean
    assert dual.min() >= -1e-12
    assert np.sqrt(dual @ gramian @ dual) == pytest.approx(slope)
    assert cost(dual / dual.sum()) <= simplex_minimum(cost, n) + 1e-7 * gramian.max()


@given(jacobians(4), st.sampled_from([0.3, 0.7, 0.95]))
@few
def test_conicgrad_is_the_best_direction_of_its_cone(jacobian: np.ndarray, c: float) -> None:
    gramian, n = jacobian @ jacobian.T, len(jacobian)
    direction, mean = weigh("conicgrad", jacobian, c=c) @ jacobian, jacobian.mean(0)
    assert np.linalg.norm(direction) == pytest.approx(np.linalg.norm(mean))
    assert mean @ direction >= (c - 1e-6) * (mean @ mean)
    found = (jacobian @ direction).min()

    # no unit vector d in the cone has a worst gain above |g_w + m g_0| - m c |g_0|, whatever w and m >= 0
    def bound(a: np.ndarray) -> float:
        return float(np.linalg.norm(a[:n] @ jacobian + a[n] * mean) - a[n] * c * np.linalg.norm(mean))

    on_simplex = {"type": "eq", "fun": lambda a: a[:n].sum() - 1}
    starts = [np.append(np.full(n, 1 / n), m) for m in (0.0, 1.0, 10.0)]
    solved = [minimize(bound, s, bounds=[(0, None)] * (n + 1), constraints=on_simplex, tol=1e-12) for s in starts]
    least = min(bound(np.append(np.abs(x.x[:n]) / np.abs(x.x[:n]).sum(), abs(x.x[n]))) for x in solved)
    assert found / np.linalg.norm(mean) == pytest.approx(least, abs=1e-4 * np.sqrt(gramian.max()))


def projected(gramian: np.ndarray, u: np.ndarray) -> np.ndarray:
    """`min v'Gv` over `v >= u` by trying every set of tasks whose bound is active."""
    n, best = len(u), u
    for count in range(n + 1):
        for active in combinations(range(n), count):
            free = [i for i in range(n) if i not in active]
            v = u.copy()
            if free:
                v[free] = np.linalg.solve(
                    gramian[np.ix_(free, free)], -gramian[np.ix_(free, list(active))] @ u[list(active)]
                )
            if (v >= u - 1e-12).all() and v @ gramian @ v < best @ gramian @ best:
                best = v
    return best


@given(jacobians(5))
@few
def test_projections_on_the_dual_cone(jacobian: np.ndarray) -> None:
    gramian, n = jacobian @ jacobian.T, len(jacobian)
    size = np.sqrt(gramian.diagonal())
    dual, up = weigh("dualproj", jacobian, regularization=0.0), weigh("upgrad", jacobian, regularization=0.0)
    # the least-squares bound is on lengths: the weights of nearly dependent gradients may differ
    wanted = projected(gramian, np.full(n, 1 / n)) @ jacobian
    np.testing.assert_allclose(dual @ jacobian, wanted, atol=1e-7 * size.max())
    wanted = sum((projected(gramian, row) for row in np.eye(n) / n), np.zeros(n)) @ jacobian
    np.testing.assert_allclose(up @ jacobian, wanted, atol=1e-7 * size.max())


@given(jacobians(4), st.sampled_from([0.01, 0.3]))
@few
def test_the_regularization_is_a_share_of_each_squared_length(jacobian: np.ndarray, share: float) -> None:
    gramian, n = jacobian @ jacobian.T, len(jacobian)
    longer = gramian + share * np.diag(gramian.diagonal())
    wanted = projected(longer, np.full(n, 1 / n))
    np.testing.assert_allclose(weigh("dualproj", jacobian, regularization=share), wanted, rtol=1e-6, atol=1e-7)
    wanted = sum((projected(longer, row) for row in np.eye(n) / n), np.zeros(n))
    np.testing.assert_allclose(weigh("upgrad", jacobian, regularization=share), wanted, rtol=1e-6, atol=1e-7)


@given(jacobians())
@many
def test_upgrad_dualproj_and_mgda_conflict_with_no_task(jacobian: np.ndarray) -> None:
    gramian = jacobian @ jacobian.T
    size = np.sqrt(gramian.diagonal())
    for name in ("upgrad", "dualproj", "mgda"):
        weights = weigh(name, jacobian)
        length = np.sqrt(weights @ gramian @ weights)
        assert ((gramian @ weights) / size).min() > -1e-5 * max(length, size.max()), name


def test_a_circle_of_the_active_set_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """scipy gives up on some dependent columns; which ones depends on its version."""
    rng = np.random.default_rng(0)
    columns, target = rng.normal(size=(6, 4)), rng.normal(size=6)

    def circling(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
        if len(rows) == len(columns):
            raise RuntimeError("Maximum number of iterations reached.")
        return nnls(rows, values)

    monkeypatch.setattr(non_negative, "nnls", circling)
    wanted = nnls(columns, target)[0]
    assert 0 < np.count_nonzero(wanted) < 4
    np.testing.assert_allclose(non_negative.least_squares(columns, target), wanted, atol=1e-10)


def test_gradients_that_cancel_have_no_direction() -> None:
    """Of three that cancel; the mean of four is not 0, but the shortest vector of their hull is."""
    rows = np.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8], [2.0, 0.0]])
    for name in ("imgrad", "conicgrad"):
        assert not weigh(name, rows).any(), name
    assert not weigh("cagrad", rows, c=1.5).any()
    np.testing.assert_allclose(weigh("mgda", rows) @ rows, 0, atol=1e-12)
    np.testing.assert_allclose(weigh("dualproj", rows) @ rows, 0, atol=1e-5)


def test_cagrad_with_a_zero_gradient_and_a_mean_that_vanishes() -> None:
    for rows in ([[0.0, 0.0], [1.0, 2.0], [-1.0, -2.0]], [[1.0, 2.0], [0.0, 0.0], [-1.0, -2.0]]):
        assert np.abs(weigh("cagrad", np.array(rows)) @ np.array(rows)).max() < 1e-9


@pytest.mark.parametrize("short", [1e-2, 1e-4, 1e-6])
def test_a_short_gradient_is_no_cancelling(short: float) -> None:
    """The worst-off task of cagrad is the short one: it gains the most that the ball allows."""
    long, unit = np.array([1.0, 0.2, -0.4]), np.array([0.3, 1.0, 0.5])
    rows = np.array([long, short * unit])
    mean = rows.mean(0)
    wanted = mean + 0.4 * np.linalg.norm(mean) * unit / np.linalg.norm(unit)
    np.testing.assert_allclose(weigh("cagrad", rows, c=0.4) @ rows, wanted, rtol=1e-6)
    for name in ("imgrad", "conicgrad"):
        gains = rows @ (weigh(name, rows) @ rows) / [1, short]
        assert (gains > 0.1).all(), name


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1e-3, 3e-2])
def test_imtl_g_does_not_leap_where_gradients_are_opposite(angle: float) -> None:
    """The same projection on both is then small; it does not follow the longer one."""
    rows = np.array([[3.0, 0.0], [-np.cos(angle), np.sin(angle)]])
    assert np.linalg.norm(weigh("imtl_g", rows) @ rows) <= 1.1 * angle
