"""The toy problem of `examples/two_task_landscape.py`, and which methods reach its Pareto front, as published."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
landscape = importlib.import_module("two_task_landscape")

POINTS = np.random.default_rng(0).uniform(-11, 11, (400, 2))


@pytest.fixture(scope="module")
def front() -> tuple[np.ndarray, np.ndarray]:
    return landscape.pareto_front()


@pytest.fixture(scope="module")
def aside() -> Iterator[ProcessPoolExecutor]:
    """A process without the shape checks of these tests: they would take nine tenths of the time of a descent."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def published(x: float, y: float) -> tuple[float, float]:
    """Nash-MTL, appendix B, with the sign of the second tanh as in the programs of all three papers."""
    f_1 = math.log(max(abs(0.5 * (-x - 7) - math.tanh(-y)), 5e-6)) + 6
    f_2 = math.log(max(abs(0.5 * (-x + 3) + math.tanh(-y) + 2), 5e-6)) + 6
    g_1 = ((-x + 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    g_2 = ((-x - 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    c_1, c_2 = max(math.tanh(0.5 * y), 0), max(math.tanh(-0.5 * y), 0)
    return c_1 * f_1 + c_2 * g_1, c_1 * f_2 + c_2 * g_2


def test_the_losses_are_the_published_ones() -> None:
    floor = [-7 + 2 * math.tanh(3.0), 3.0]  # at the foot of the first valley
    points = np.concatenate([POINTS, landscape.STARTS, [floor]])
    expected = np.array([published(*point) for point in points.tolist()])
    np.testing.assert_allclose(landscape.problem(points)[0], expected, rtol=1e-12, atol=1e-12)
    assert expected[-1, 0] == pytest.approx(math.tanh(1.5) * (math.log(5e-6) + 6))


def test_the_gradients_are_those_of_finite_differences() -> None:
    height = 1e-6
    # away from the feet of the valleys, where the curvature is 1 / distance^2, and from y = 0
    inner = np.stack([(-POINTS[:, 0] - 7) / 2 + np.tanh(POINTS[:, 1]), (7 - POINTS[:, 0]) / 2 - np.tanh(POINTS[:, 1])])
    points = POINTS[(np.abs(inner).min(0) > 0.05) & (np.abs(POINTS[:, 1]) > 0.01)]
    assert len(points) > 300
    for axis in range(2):
        move = height * np.eye(2)[axis]
        slopes = (landscape.problem(points + move)[0] - landscape.problem(points - move)[0]) / (2 * height)
        # the third derivative is at most 2 / 0.05^3, rounding 1e-15 * 20 / height
        np.testing.assert_allclose(landscape.problem(points)[1][..., axis], slopes, rtol=1e-6, atol=1e-7)


def test_the_gradient_between_the_halves_is_the_sum_of_both_sides() -> None:
    at, move = np.array([1.3, 0.0]), np.array([0.0, 1e-7])
    above, here, below = (landscape.problem(at + step)[0] for step in (move, 0 * move, -move))
    expected = (above - here) / 1e-7 + (here - below) / 1e-7
    np.testing.assert_allclose(landscape.problem(at)[1][:, 1], expected, rtol=1e-5)


def test_the_front_is_the_whole_pareto_front(front: tuple[np.ndarray, np.ndarray]) -> None:
    points, losses = front
    side = np.linspace(-11, 11, 201)
    everywhere = landscape.problem(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))[0]
    assert not any((everywhere < one - 1e-6).all(1).any() for one in losses)
    # from the optimum of one task to that of the other, without a gap
    assert np.abs(points[[0, -1], 0]) == pytest.approx([7, 7], abs=1e-4)
    assert (losses.min(0) <= everywhere.min(0)).all()
    assert np.linalg.norm(np.diff(losses, axis=0), axis=1).max() < 0.6 * landscape.NEAR
    assert (np.diff(losses[:, 0]) > 0).all()
    assert (np.diff(losses[:, 1]) < 0).all()


# from the first start the plain sum, PCGrad and CAGrad do not arrive (Nash-MTL, figure 1), from the second all do
HARD_AND_EASY = np.array([[9.0, 9.0], [-8.5, -5.0]])
RATE = 0.01


@pytest.mark.parametrize("name", ["equal", "pcgrad", "cagrad"])
def test_held_up_between_steep_walls_as_published(
    name: str, front: tuple[np.ndarray, np.ndarray], aside: ProcessPoolExecutor
) -> None:
    """On a way of the length on which the methods of the next test have arrived from the same start."""
    hard, easy = (
        aside.submit(landscape.descend, name, HARD_AND_EASY[[which]], steps).result()[-1]
        for which, steps in ((0, 4800), (1, 1500))
    )
    assert hard[0, 1] > 0  # still in the valley
    assert landscape.distances(landscape.problem(hard)[0], front[1])[0] > 15
    assert landscape.distances(landscape.problem(easy)[0], front[1])[0] < landscape.NEAR


@pytest.mark.parametrize(
    ("name", "steps", "favoured"),
    [
        # MGDA is inclined to the task with the small gradients, the first, whose optimum is at x = 7; Nash-MTL less so
        ("mgda", 2200, (6.0, 7.0)),
        ("nash_mtl", 1300, (3.0, 5.0)),
        # FAMO lets both losses fall alike: to the middle
        ("famo", 2400, (-1.5, 1.5)),
    ],
)
def test_at_the_front_as_published(
    name: str,
    steps: int,
    favoured: tuple[float, float],
    front: tuple[np.ndarray, np.ndarray],
    aside: ProcessPoolExecutor,
) -> None:
    path = aside.submit(landscape.descend, name, HARD_AND_EASY, steps, rate=RATE).result()
    assert landscape.distances(landscape.problem(path[-1])[0], front[1]).max() < landscape.NEAR
    assert favoured[0] < path[-1, 0, 0] < favoured[1]


def test_clipping_lets_pcgrad_out(front: tuple[np.ndarray, np.ndarray], aside: ProcessPoolExecutor) -> None:
    """It reaches the front in FAMO's figure, whose program clips its gradients, and not in that of Nash-MTL."""
    path = aside.submit(landscape.descend, "pcgrad", HARD_AND_EASY[:1], 1500, rate=RATE, clip=1.0).result()
    assert landscape.distances(landscape.problem(path[-1])[0], front[1])[0] < landscape.NEAR


def test_the_plain_sum_ends_at_its_own_minimum(aside: ProcessPoolExecutor) -> None:
    """Of `0.1 (x - 7)^2 + (x + 7)^2`."""
    path = aside.submit(landscape.descend, "equal", HARD_AND_EASY[1:], 1500, rate=RATE).result()
    assert path[-1, 0, 0] == pytest.approx(-7 * 0.9 / 1.1, abs=1e-3)


def test_the_command_prints_every_descent_and_draws(tmp_path: Path, capsys: Any) -> None:
    landscape.main(["--out", str(tmp_path / "a.png"), "--steps", "20", "--methods", "equal", "mgda", "upgrad"])
    printed = capsys.readouterr().out
    assert printed.count(" no ") == 3 * len(landscape.STARTS)
    assert all(name in printed for name in ("equal", "mgda", "upgrad"))
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(picture, axis=0)) > 100
