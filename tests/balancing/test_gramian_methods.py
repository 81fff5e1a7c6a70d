"""Methods that read the Gramian, each against an independent oracle and against what its paper claims."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from drawn import NAMES, few, jacobians, many, weigh
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchjd import aggregation

from segweave.balancing import METHODS
from segweave.balancing.fair import fair
from segweave.balancing.gradvac import vaccinated
from segweave.balancing.pcgrad import project


@given(jacobians(), st.integers(0, 100))
@many
def test_pcgrad_is_torchjds_in_the_same_order(jacobian: np.ndarray, seed: int) -> None:
    gramian, n = jacobian @ jacobian.T, len(jacobian)
    orders = np.array([np.random.default_rng([seed, i]).permutation(n) for i in range(n)])
    found = project(gramian, orders)
    drawn = iter(torch.from_numpy(orders))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda _: next(drawn))
        wanted = aggregation.PCGradWeighting()(torch.from_numpy(gramian)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@given(jacobians(), st.integers(0, 100), st.sampled_from([0.1, 0.5]))
@many
def test_gradvac_is_torchjds_in_the_same_order(jacobian: np.ndarray, seed: int, beta: float) -> None:
    gramian, n = jacobian @ jacobian.T, len(jacobian)
    gramian /= gramian.trace() / n
    rng = np.random.default_rng(seed)
    oracle, targets = aggregation.GradVacWeighting(beta=beta), np.zeros((n, n))
    for _ in range(3):
        turned = gramian * np.outer(*[np.exp(0.3 * rng.normal(size=n))] * 2)
        orders = np.array([rng.permutation(n) for _ in range(n)])
        drawn = iter([torch.tensor([j - (j > i) for j in row if j != i]) for i, row in enumerate(orders)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randperm", lambda _, drawn=drawn: next(drawn))
            wanted = oracle(torch.from_numpy(turned)).numpy()
        np.testing.assert_allclose(vaccinated(turned, orders, targets, beta), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["pcgrad", "gradvac"])
def test_the_order_is_drawn_anew_in_each_step_from_the_seed(name: str) -> None:
    gramian = torch.eye(5) - 0.24 + 0.1 * torch.diag(torch.arange(5.0))

    def run(seed: int) -> list[Tensor]:
        balancer = METHODS.load(name)(NAMES[:5], seed)
        weights = []
        for step in range(3):
            balancer.memory.step = step
            weights.append(balancer.weigh(gramian, NAMES[:5], torch.ones(5), False))
        return weights

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


@given(jacobians())
@many
def test_imtl_g_gives_every_task_the_same_projection(jacobian: np.ndarray) -> None:
    weights = weigh("imtl_g", jacobian)
    theirs = aggregation.IMTLGWeighting()(torch.from_numpy(jacobian @ jacobian.T)).numpy()
    np.testing.assert_allclose(weights @ jacobian, theirs @ jacobian, rtol=1e-5, atol=1e-5 * np.abs(jacobian).max())
    inner = (jacobian @ (weights @ jacobian)) / np.linalg.norm(jacobian, axis=1)
    np.testing.assert_allclose(inner, inner.mean(), rtol=1e-5, atol=1e-6 * np.abs(inner).max())
    # the closed form of the paper, for gradients of which none is a combination of the others
    apart = jacobian[0] - jacobian[1:]
    units = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
    turned = (units[0] - units[1:]).T
    rest = jacobian[0] @ turned @ np.linalg.inv(apart @ turned)
    np.testing.assert_allclose(weights, [1 - rest.sum(), *rest], rtol=1e-5, atol=1e-6 * np.abs(weights).max())


@given(jacobians(), st.sampled_from(["min", "median", "rmse"]))
@many
def test_aligned_mtl_makes_the_components_one_length(jacobian: np.ndarray, scale: str) -> None:
    u, s, v = np.linalg.svd(jacobian, full_matrices=False)
    # torch's median is the lower one
    length = {"min": s.min(), "median": np.sort(s)[(len(s) - 1) // 2], "rmse": np.sqrt(np.square(s).mean())}[scale]
    wanted = (length * u @ v).mean(0)
    weights = weigh("aligned_mtl", jacobian, scale=scale)
    np.testing.assert_allclose(weights @ jacobian, wanted, rtol=1e-5, atol=1e-6 * length)


@given(jacobians())
@many
def test_config_is_torchjds(jacobian: np.ndarray) -> None:
    wanted = aggregation.ConFIG()(torch.from_numpy(jacobian)).numpy()
    direction = weigh("config", jacobian) @ jacobian
    np.testing.assert_allclose(direction, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
    angles = jacobian @ direction / np.linalg.norm(jacobian, axis=1)
    np.testing.assert_allclose(angles, angles.mean(), rtol=1e-4)


def test_config_where_no_angle_is_the_same_for_all() -> None:
    """Opposite gradients have no common direction; one that is 0 has no angle, and the others are as without it."""
    rows = np.array([[3.0, 4.0], [-0.6, -0.8]])
    assert not weigh("config", rows).any()
    rows = np.array([[3.0, 4.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.0, -1.0]])
    with_zero = weigh("config", np.insert(rows, 1, 0.0, axis=0))
    assert with_zero[1] == 0
    np.testing.assert_allclose(with_zero[[0, 2, 3]], weigh("config", rows), rtol=1e-9)


@given(jacobians(), st.sampled_from([0.5, 1.0, 2.0, 5.0]))
@few
def test_fairgrad_solves_its_equation(jacobian: np.ndarray, alpha: float) -> None:
    gramian = jacobian @ jacobian.T
    weights = weigh("fairgrad", jacobian, alpha=alpha)
    assert np.abs(gramian @ weights * weights ** (1 / alpha) - 1).max() < 1e-8
    if alpha <= 2:
        theirs = aggregation.FairGradWeighting(alpha)(torch.from_numpy(gramian)).numpy()
        if np.abs(gramian @ theirs * theirs ** (1 / alpha) - 1).max() < 1e-3:
            np.testing.assert_allclose(weights, theirs, rtol=2e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_fair_weights_to_forty_digits(alpha: float, spread: float) -> None:
    """Gradients whose sizes are up to 3 orders apart, two of them at 179 degrees; the oracle is mpmath's root."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(4, 6)) * 10 ** rng.uniform(-spread / 2, spread / 2, size=(4, 1))
    rows[1] = -rows[0] / np.linalg.norm(rows[0]) + 0.02 * rng.normal(size=6) / 6**0.5
    gramian = rows @ rows.T
    found = fair(gramian, 1 / alpha)
    with mpmath.workdps(40):
        exact = mpmath.matrix(gramian.tolist())

        def residual(*logarithms: Any) -> list[Any]:
            weights = mpmath.matrix([mpmath.exp(u) for u in logarithms])
            gains = exact * weights
            return [mpmath.log(gains[i]) + mpmath.log(weights[i]) / alpha for i in range(4)]

        root = mpmath.findroot(residual, tuple(np.log(found).tolist()))
    np.testing.assert_allclose(found, [float(mpmath.exp(u)) for u in root], rtol=1e-8)
    name, options = ("nash_mtl", {"max_norm": 0.0}) if alpha == 1 else ("fairgrad", {"alpha": alpha})
    scale = np.linalg.norm(gramian) ** 0.5 if alpha == 1 else 1.0
    np.testing.assert_allclose(weigh(name, rows, **options), scale * found, rtol=1e-8)


def test_a_task_without_gradient_gets_the_mean_of_the_fair_weights() -> None:
    rows = np.random.default_rng(1).normal(size=(3, 7))
    without, found = weigh("fairgrad", rows, alpha=2.0), weigh("fairgrad", np.insert(rows, 1, 0.0, axis=0), alpha=2.0)
    np.testing.assert_allclose(found[[0, 2, 3]], without, rtol=1e-9)
    assert found[1] == pytest.approx(without.mean())


@given(jacobians())
@many
def test_nash_mtl_is_the_bargaining_solution(jacobian: np.ndarray) -> None:
    gramian = jacobian @ jacobian.T
    weights = weigh("nash_mtl", jacobian, max_norm=0.0)
    residual = (gramian / np.linalg.norm(gramian) @ weights) * weights - 1
    assert np.abs(residual).max() < 1e-8
    # the product of the gains is the largest of all directions of this length
    direction = weights @ jacobian
    direction /= np.linalg.norm(direction)
    product = np.log(jacobian @ direction).sum()
    for seed in range(20):
        other = direction + 0.02 * np.random.default_rng(seed).normal(size=len(direction))
        gains = jacobian @ other / np.linalg.norm(other)
        assert (gains <= 0).any() or np.log(gains).sum() <= product + 1e-5
    clipped = weigh("nash_mtl", jacobian, max_norm=0.01) @ jacobian
    assert np.linalg.norm(clipped) == pytest.approx(0.01)
    np.testing.assert_allclose(clipped / 0.01, direction, atol=1e-5)


def test_nash_mtl_keeps_its_weights_between_updates() -> None:
    balancer = METHODS.load("nash_mtl")(NAMES[:3], update_every=3, max_norm=0.0)
    seen = []
    for step in range(5):
        rows = torch.randn(3, 9, generator=torch.Generator().manual_seed(step))
        balancer.memory.step = step
        seen.append(balancer.weigh(rows @ rows.T, NAMES[:3], torch.ones(3), True))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])
    assert torch.equal(seen[3], seen[4])
    # a task without weights yet has them made at once
    rows = torch.randn(2, 9, generator=torch.Generator().manual_seed(9))
    balancer.memory.step = 5
    assert not torch.equal(balancer.weigh(rows @ rows.T, ("a", "h"), torch.ones(2), True)[:1], seen[4][:1])


@given(jacobians(), st.sampled_from([1e-3, 7.0, 1e4]))
@many
def test_a_rescaled_task_does_not_turn_the_direction(jacobian: np.ndarray, factor: float) -> None:
    rescaled = jacobian.copy()
    rescaled[0] *= factor
    same_direction = ("imtl_g", {}), ("nash_mtl", {"max_norm": 0.0}), ("fairgrad", {"alpha": 1.0}), ("config", {})
    for name, options in same_direction:
        one, other = weigh(name, jacobian, **options) @ jacobian, weigh(name, rescaled, **options) @ rescaled
        one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
        # the weights of imtl_g sum to 1, so that their common sign may change
        np.testing.assert_allclose(np.sign(one @ other) * one, other, atol=1e-4, err_msg=name)


HOMOGENEOUS = (
    "mgda",
    "cagrad",
    "imgrad",
    "conicgrad",
    "upgrad",
    "dualproj",
    "config",
    "imtl_g",
    "aligned_mtl",
    "pcgrad",
)


@given(jacobians(), st.sampled_from([1e-9, 100.0, 1e9]))
@few
def test_weights_do_not_depend_on_the_scale_of_all_losses(jacobian: np.ndarray, factor: float) -> None:
    for name in HOMOGENEOUS:
        np.testing.assert_allclose(
            weigh(name, factor * jacobian) @ jacobian,
            weigh(name, jacobian) @ jacobian,
            rtol=1e-5,
            atol=1e-6 * np.abs(jacobian).max(),
            err_msg=name,
        )


@given(jacobians(), st.sampled_from([0.5, 2.0]), st.sampled_from([1e-6, 1e6]))
@few
def test_fairgrads_update_is_a_power_of_the_gradients(jacobian: np.ndarray, alpha: float, factor: float) -> None:
    one, other = (weigh("fairgrad", rows, alpha=alpha) @ rows for rows in (jacobian, factor * jacobian))
    power = factor ** ((1 - alpha) / (1 + alpha))
    np.testing.assert_allclose(other, power * one, rtol=1e-6, atol=1e-8 * np.abs(power * one).max())


@given(jacobians())
@many
def test_updates_are_linear_under_scaling(jacobian: np.ndarray) -> None:
    """`A(diag(c) J)` is linear in `c > 0` (Quinton & Rey 2024, of UPGrad); of the others because each task's gradient
    is turned by what depends on the directions of the others only."""
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0.5, 2, (2, len(jacobian), 1))
    orders = np.array([rng.permutation(len(jacobian)) for _ in jacobian])
    targets = rng.uniform(-0.2, 0.4, (len(jacobian), len(jacobian)))
    methods = {
        "upgrad": lambda rows: weigh("upgrad", rows),
        "pcgrad": lambda rows: project(rows @ rows.T, orders),
        "gradvac": lambda rows: vaccinated(rows @ rows.T, orders, targets.copy(), 0.5),
    }
    for name, weights in methods.items():
        both, one, other = (weights(c * jacobian) @ (c * jacobian) for c in (first + second, first, second))
        size = np.abs(jacobian).max()
        np.testing.assert_allclose(both, one + other, rtol=1e-4, atol=1e-5 * size, err_msg=name)


def test_gradvac_turns_a_gradient_to_the_target() -> None:
    """Two tasks at right angles, whose targets are a cosine of 0.6 and of -0.2: the first alone is turned."""
    gramian, targets = np.diag([4.0, 9.0]), np.array([[0.0, 0.6], [-0.2, 0.0]])
    weights = vaccinated(gramian, np.array([[1, 0], [0, 1]]), targets, 0.25)
    turned = np.array([1.0, weights[1] - 1])
    assert turned @ gramian[:, 1] / np.sqrt(9 * (turned @ gramian @ turned)) == pytest.approx(0.6)
    assert weights[0] == 1
    np.testing.assert_allclose(targets, [[0, 0.45], [-0.15, 0]], atol=1e-9)


@pytest.mark.parametrize(("name", "options"), [("gradvac", {}), ("nash_mtl", {"update_every": 2})])
def test_state_moves_with_the_last_micro_batch_only(name: str, options: dict[str, int]) -> None:
    balancer = METHODS.load(name)(NAMES[:3], **options)
    gramian = torch.tensor([[2.0, -1.0, 0.5], [-1.0, 1.0, 0.1], [0.5, 0.1, 3.0]])
    balancer.weigh(gramian, NAMES[:3], torch.ones(3), False)
    assert not balancer.memory.get_extra_state()["values"]
    balancer.weigh(gramian, NAMES[:3], torch.ones(3), True)
    assert balancer.memory.get_extra_state()["values"]


EVERY = (*HOMOGENEOUS, "gradvac", "nash_mtl", "fairgrad")


@pytest.mark.parametrize("factor", [1e30, 1e15, 1e-15, 1e-30])
def test_huge_and_tiny_gradients(factor: float) -> None:
    """Inner products in float32, as in training: they overflow at 1e30, are 0 at 1e-30, and in between all is alike."""
    rows = torch.from_numpy(np.random.default_rng(2).normal(size=(4, 9))).float()
    for name in EVERY:
        balancer = METHODS.load(name)(NAMES[:4], 5)
        plain, scaled = (balancer.weigh(r @ r.T, NAMES[:4], torch.ones(4), False) @ rows for r in (rows, factor * rows))
        assert scaled.isfinite().all(), name
        if 1e-20 < factor < 1e20:
            torch.testing.assert_close(scaled / scaled.norm(), plain / plain.norm(), rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_is_adam_on_the_distance_to_the_target(alpha: float) -> None:
    balancer = METHODS.load("gradnorm")(NAMES[:3], alpha=alpha, lr=0.1)
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.1)
    first, found = None, torch.ones(3)
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randn(3, 9, generator=generator, dtype=torch.float64) * torch.tensor([[5.0], [0.3], [1.0]])
        losses = torch.rand(3, generator=generator, dtype=torch.float64) + 0.2
        first = losses if first is None else first
        found = balancer.weigh(rows @ rows.T, NAMES[:3], losses, True)
        torch.testing.assert_close(found, weights.detach())
        norms = rows.norm(dim=1)
        lengths = weights * norms
        ratios = losses / first
        target = (lengths.mean() * (ratios / ratios.mean()) ** alpha).detach()
        optimizer.zero_grad()
        ((lengths - target).abs().sum() / norms.mean()).backward()
        optimizer.step()
        with torch.no_grad():
            weights.clamp_(min=0)
            weights *= 3 / weights.sum()
    assert found[0] < 1 < found[1]


@given(jacobians(5), st.permutations(range(5)))
@few
def test_weights_follow_the_rows(jacobian: np.ndarray, places: list[int]) -> None:
    order = [place for place in places if place < len(jacobian)]
    for name in (*HOMOGENEOUS, "nash_mtl", "fairgrad"):
        balancer = METHODS.load(name)(NAMES)
        tasks = NAMES[: len(order)]
        gramian = torch.from_numpy(jacobian @ jacobian.T)
        one = balancer.weigh(gramian, tasks, torch.ones(len(order)), True)
        other = balancer.weigh(gramian[order][:, order], tuple(tasks[i] for i in order), torch.ones(len(order)), True)
        torch.testing.assert_close(other.numpy() @ jacobian[order], one.numpy() @ jacobian, rtol=1e-4, atol=1e-5)


def test_gradvac_does_not_take_the_targets_of_other_tasks() -> None:
    one, other = METHODS.load("gradvac")(["b", "c"]), METHODS.load("gradvac")(["a", "b", "c"])
    gramian = torch.tensor([[2.0, -1.0, 0.3], [-1.0, 3.0, 0.1], [0.3, 0.1, 1.0]])
    one.weigh(gramian[1:, 1:], ("b", "c"), torch.ones(2), True)
    other.load_state_dict(one.state_dict())
    fresh = METHODS.load("gradvac")(["a", "b", "c"])
    found, expected = (b.weigh(gramian, ("a", "b", "c"), torch.ones(3), True) for b in (other, fresh))
    torch.testing.assert_close(found, expected)
