"""Normals of depth by plane fits, against planes, spheres and a rendered room whose normals are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segweave.config import Config
from segweave.data.derived.derivation import Source
from segweave.data.derived.normals import PlaneNormals, plane_normals, rounding_error
from segweave.errors import ConfigError
from segweave.schema import check_config
from segweave.sources import build_dataset, build_tasks
from segweave.tasks import Normals

K = [260.0, 250.0, 80.0, 58.0]


def rays(height: int = 120, width: int = 160) -> np.ndarray:
    """[3, H, W]: right, down and ahead, at a depth of 1."""
    y, x = np.indices((height, width), float)
    return np.stack([(x - K[2]) / K[0], (y - K[3]) / K[1], np.ones_like(x)])


def plane(normal: np.ndarray, distance: float) -> np.ndarray:
    """The depth of a plane with a unit normal (right, up, towards the camera), so far from the camera."""
    right, up, towards = normal
    facing = np.einsum("c,chw->hw", [-right, up, towards], rays())
    return (distance / facing).astype(np.float32)


def degrees(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Angles at the labelled pixels, exact for small ones too."""
    known = (made != 0).any(0)
    true = np.broadcast_to(true if true.ndim == 3 else true[:, None, None], made.shape)
    a, b = made[:, known].astype(float), true[:, known]
    return np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=0), np.linalg.norm(a + b, axis=0)))


@pytest.mark.parametrize("tilt", [(0, 0, 1), (0.6, 0, 0.8), (-0.3, 0.5, 0.8), (0, -0.7, 0.7), (0.2, 0.9, 0.4)])
@pytest.mark.parametrize("window", [3, 7, 31])
def test_the_normal_of_a_plane_is_exact(tilt: tuple[float, float, float], window: int) -> None:
    normal = np.array(tilt) / np.linalg.norm(tilt)
    depth = plane(normal, 2.0)
    depth[(depth <= 0) | (depth > 100)] = 0
    made = plane_normals(depth, K, window, 0.02)
    assert (made != 0).any(0).sum() > 0.5 * (depth > 0).sum()
    # float32 depth has a relative error of 6e-8, and one pixel of 1 / 260 beside another tells 260 times more: 1e-3 deg
    # at 3 pixels, over the cosine of the steepest tilt
    assert degrees(made, normal).max() < (0.02 if window == 3 else 0.002)


def test_the_normals_of_a_sphere_are_those_of_its_middle() -> None:
    """The radius and the window leave a cap of 3 degrees, which the plane rounds off symmetrically."""
    centre, radius = np.array([0.0, 0.0, 3.0]), 1.2
    directions = rays()
    squared = (directions**2).sum(0)
    along = np.einsum("c,chw->hw", centre, directions)
    root = along**2 - squared * (centre @ centre - radius**2)
    depth = np.where(root > 0, (along - np.sqrt(np.clip(root, 0, None))) / squared, 0)
    true = (directions * depth - centre[:, None, None]) / radius * np.array([1, -1, -1])[:, None, None]
    made = plane_normals(depth.astype(np.float32), K, 5, 0.02)
    frontal = (depth > 0) & (true[2] > 0.6)
    made[:, ~frontal] = 0
    assert (made != 0).any(0).sum() > 0.95 * frontal.sum()
    assert degrees(made, true).max() < 1.5
    assert degrees(made, true).mean() < 0.3


@pytest.mark.parametrize("window", [5, 11, 21])
def test_independent_errors_have_the_error_of_the_formula(window: int) -> None:
    step, distance = 0.01, 2.0
    noise = np.random.default_rng(window).uniform(-step / 2, step / 2, (120, 160))
    made = plane_normals((distance + noise).astype(np.float32), [250.0, 250.0, 80.0, 60.0], window, 0.05)
    errors = degrees(made, np.array([0.0, 0.0, 1.0]))
    inner = np.zeros((120, 160), bool)
    inner[window // 2 : -(window // 2), window // 2 : -(window // 2)] = True
    mean = errors.reshape(120, 160)[inner].mean()
    # of uniform errors, deviation q / sqrt(12), a slope over k x k points 1 / f apart has the deviation
    # q f / (Z k sqrt(k^2 - 1)), and the mean of two such angles together (Rayleigh) is sqrt(pi / 2) of it
    expected = math.degrees(math.sqrt(math.pi / 2) * step * 250 / (distance * window * math.sqrt(window**2 - 1)))
    # (120 / k)^2 windows that share no pixel leave 52 % / (120 / k) of chance, and three times that is allowed
    assert mean == pytest.approx(expected, rel=0.03 + 3 * 0.52 * window / 120)


@pytest.mark.parametrize("window", [11, 31])
def test_eight_bits_leave_the_stated_error(window: int) -> None:
    """Planes of all directions, rendered and rounded as a file would be, against what is stated of their like."""
    step, size, f = 10 / 255, window + 4, 260.0
    rng = np.random.default_rng(1)
    means = []
    for _ in range(150):
        cosine, turn = rng.uniform(0.5, 1), rng.uniform(0, math.tau)
        sine = math.sqrt(1 - cosine**2)
        normal = np.array([sine * math.cos(turn), sine * math.sin(turn), cosine])
        y, x = (np.indices((size, size)) - size // 2) / f
        middle_depth = 2.5 + step * rng.uniform(-0.5, 0.5)
        depth = middle_depth * cosine / (cosine - normal[0] * x + normal[1] * y)
        coarse = (np.round(depth / step) * step).astype(np.float32)
        made = plane_normals(coarse, [f, f, size // 2, size // 2], window, 1.0)
        middle = made[:, size // 2 - 2 : size // 2 + 3, size // 2 - 2 : size // 2 + 3]
        means.append(degrees(middle, normal).mean())
    chance = 4 * np.std(means) / math.sqrt(len(means))
    assert np.mean(means) == pytest.approx(rounding_error(step, f, 2.5, window), abs=chance)


@pytest.mark.parametrize(
    ("bits", "window", "mean", "median"),
    [(8, 7, 17.8, 15.0), (8, 31, 2.3, 0.5), (16, 7, 0.6, 0.2), (16, 31, 1.7, 0.0)],
)
def test_normals_of_a_room(bits: int, window: int, mean: float, median: float) -> None:
    """The figures of docs/own_data.md: walls, floor and ceiling 2 to 4 m away, before the camera of NYUv2.

    Windows over a corner of the room mix two walls, which is all that is left of the mean with fine depth.
    """
    height, width, camera = 480, 640, [518.86, 519.47, 325.58, 253.74]
    y, x = np.indices((height, width), float)
    directions = np.stack([(x - camera[2]) / camera[0], (y - camera[3]) / camera[1], np.ones_like(x)])
    yaw, pitch = math.radians(25), math.radians(-12)
    about_y = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
    depth, true = np.full((height, width), np.inf), np.zeros((3, height, width))
    walls = {(0, -1, 0): 1.3, (0, 1, 0): 1.2, (1, 0, 0): 1.8, (-1, 0, 0): 2.2, (0, 0, -1): 3.2}
    for inwards, distance in walls.items():
        normal = (about_y @ about_x).T @ np.array(inwards, float)
        facing = np.einsum("c,chw->hw", normal, directions)
        there = np.where(facing < 0, -distance / np.where(facing < 0, facing, 1), np.inf)
        true = np.where(there < depth, normal[:, None, None], true)
        depth = np.minimum(depth, there)
    stored = np.round(depth * 25.5) / 25.5 if bits == 8 else np.round(depth * 1000) / 1000
    made = plane_normals(stored.astype(np.float32), camera, window, 0.02)
    assert (made != 0).any()
    errors = degrees(made, true * np.array([1, -1, -1])[:, None, None])
    assert (errors.mean(), np.median(errors)) == (pytest.approx(mean, abs=0.1), pytest.approx(median, abs=0.1))


def test_floors_of_nyuv2_face_upwards(real_data: Path) -> None:
    """8-bit depth of a real sensor: all of a floor has one normal, which is the better seen the larger the window."""
    spread = {}
    for window in (7, 31):
        normals = {"intrinsics": [518.86, 519.47, 325.58, 253.74], "step": 10 / 255, "window": window}
        tasks = {
            "semantic40": {"kind": "semantic"},
            "slopes": {"kind": "normals", "source": "depth", "derive": {"normals": normals}},
        }
        config = check_config(Config(data={"format": "nyuv2", "root": str(real_data / "nyuv2" / "data")}, tasks=tasks))
        readers = build_tasks(config)
        dataset, built = build_dataset(config, "test", readers), {task.name: task for task in readers}
        floor = built["semantic40"].classes.index("floor")
        off = []
        for index in range(0, 50, 5):
            labels = dataset[index].annotations
            vectors = labels["slopes"].numpy()
            seen = (labels["semantic40"].numpy() == floor) & (vectors != 0).any(0)
            if seen.sum() > 5000:
                mean = vectors[:, seen].mean(1, dtype=float)
                mean /= np.linalg.norm(mean)
                assert mean[1] > 0.7  # up, for a camera that a person holds
                off.append(np.median(np.degrees(np.arccos(np.clip(mean @ vectors[:, seen], -1, 1)))))
        spread[window] = np.mean(off)
        assert len(off) >= 4
    assert spread[31] < 5 < 2 * spread[31] < spread[7]


def test_a_tilt_within_one_step_is_not_seen() -> None:
    flat = plane_normals(np.full((60, 60), 2, np.float32), K, 31, 0.02)
    assert degrees(flat, np.array([0.0, 0.0, 1.0])).max() < 1e-3


def test_windows_over_a_step_or_a_hole_are_not_labelled() -> None:
    depth = np.full((60, 80), 2, np.float32)
    depth[:, 40:] = 3
    depth[20:40, 10:30] = 0
    made = plane_normals(depth, K, 7, 0.02)
    known = (made != 0).any(0)
    assert not known[:, 37:43].any()
    assert known[:20, :36].all()
    assert known[:, 44:].all()
    assert not known[20:40, 10:30].any()
    assert degrees(made, np.array([0.0, 0.0, 1.0])).max() < 1e-3


def test_points_on_a_line_have_no_normal() -> None:
    depth = np.zeros((2, 9), np.float32)
    depth[0] = 2
    assert not plane_normals(depth, K, 3, 0.02).any()


def test_what_is_said_of_normals() -> None:
    made = PlaneNormals(Normals("n"), Source("d", "metres"), intrinsics=[519, 519, 320, 240], step=10 / 255)
    assert made.window == 31
    assert "not a benchmark" in made.stated
    assert "in degrees: 6.8 at 1 m, 0.99 at 2.5 m, 0.22 at 5 m" in made.stated
    right: dict[str, Any] = {"intrinsics": [1, 1, 0, 0], "step": 0.1}
    for wrong in ({"window": 4}, {"window": 1}, {"tolerance": 0.0}, {"step": -1.0}, {"intrinsics": [0, 1, 0, 0]}):
        with pytest.raises(ConfigError, match=rf"tasks\.n\.derive\.normals\.{next(iter(wrong))}: found"):
            PlaneNormals(Normals("n"), Source("d", "metres"), **right | wrong)
    with pytest.raises(ConfigError, match="source 'masks' holds classes; expected metres"):
        PlaneNormals(Normals("n"), Source("masks", "classes"), **right)


# through data of every kind
