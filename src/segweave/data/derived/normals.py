"""Surface normals of a depth map, by planes through the pixels round each one.

A plane `n . P = d` in front of a pinhole camera has an inverse depth that is linear in the image: with
`P = Z (u, v, 1)`, `u = (x - cx) / fx` and `v = (y - cy) / fy`, it is `1 / Z = (n_x u + n_y v + n_z) / d`. So least
squares of `1 / Z` on `(u, v, 1)` over a window gives the direction of the normal, exactly where the surface is a plane.
Sums over windows come from integral images, at a price that does not depend on the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from segweave.data.derived.derivation import Derivation, Source
from segweave.errors import ConfigError
from segweave.tasks.task import Task

_SHOWN_AT = (1.0, 2.5, 5.0)
"""Metres at which the error is stated."""
_PLANES, _STEEPEST = 1000, 60.0
_NARROW = 1e-3


class PlaneNormals(Derivation):
    """Normals of planes fitted to depth, x to the right, y up and z towards the camera; for `normals`.

    They are made of depth, not measured, and no benchmark's: numbers on them compare with nothing that is published. A
    pixel is labelled where it has a measurement itself, as have at least half of the pixels of its window within the
    image, and where the plane fits: a window over the edge of an object does not.

    Depth that is stored in steps has errors up to half a step, and `segweave check` states what they do to the normals
    of planes, by `rounding_error`: the nearer the surface and the smaller the window, the more. Where a whole window
    lies in one step, the fit says head-on, whatever the tilt. Noise, curvature and corners within a window add to it.

    Args:
        intrinsics: fx, fy, cx and cy in pixels of the depth files, as 518.86, 519.47, 325.58, 253.74 of NYUv2.
        step: from one value of the depth to the next, metres: 0.0392 for 8 bits that span 10 m, 0.001 for millimetres;
            of depth that is not stored in steps, twice its error.
        window: the side of the window in pixels, odd; 31 for 8-bit depth, less for finer depth.
        tolerance: the largest standard deviation of inverse depth from the plane, as a share of the inverse depth.
        units_per_metre: as of kind `depth`, where the source is a layer that no task reads.

    Raises:
        ConfigError: not four intrinsics with positive focal lengths, an even window or one below 3, a step or tolerance
            that is not between 0 and 1, or units_per_metre not positive.
    """

    gives = "normals"
    takes = ("metres",)

    def __init__(
        self,
        task: Task,
        source: Source,
        *,
        intrinsics: Sequence[float],
        step: float,
        window: int = 31,
        tolerance: float = 0.02,
        units_per_metre: float | None = None,
    ) -> None:
        super().__init__(task, source, "normals")
        if len(intrinsics) != 4 or min(intrinsics[:2]) <= 0:
            raise ConfigError(f"{self.where}.intrinsics: found {list(intrinsics)}; expected [fx, fy, cx, cy] in pixels")
        if window < 3 or window % 2 == 0:
            raise ConfigError(f"{self.where}.window: found {window}; expected an odd number from 3")
        for key, value in (("tolerance", tolerance), ("step", step)):
            if not 0 < value < 1:
                raise ConfigError(f"{self.where}.{key}: found {value}; expected a number between 0 and 1")
        # whoever reads the source takes them
        if units_per_metre is not None and not units_per_metre > 0:
            raise ConfigError(f"{self.where}.units_per_metre: found {units_per_metre}; expected a number above 0")
        self.intrinsics = [float(value) for value in intrinsics]
        self.window = window
        self.tolerance = tolerance
        self.step = step

    def __call__(self, values: Tensor) -> Tensor:
        return torch.from_numpy(plane_normals(values.numpy(), self.intrinsics, self.window, self.tolerance))

    @property
    def stated(self) -> str:
        focal = (self.intrinsics[0] + self.intrinsics[1]) / 2
        errors = [f"{rounding_error(self.step, focal, z, self.window):.2g} at {z:g} m" for z in _SHOWN_AT]
        return (
            f"planes fitted to depth, not a benchmark; expected mean error on planes, in degrees: {', '.join(errors)}; "
            f"more at corners, on bends and with noise"
        )


def rounding_error(step: float, focal: float, depth: float, window: int) -> float:
    """The mean angular error in degrees that rounding leaves in normals of planes.

    It is the mean over 1000 planes whose normals are drawn evenly from the directions up to 60 degrees off the optical
    axis, each seen by one window round that axis, at depths that differ by up to half a step; the same at every call.

    Args:
        step: from one value of the depth to the next, metres.
        focal: pixels.
        depth: metres.
        window: its side in pixels.
    """
    random = np.random.default_rng(0)
    cosine, turn = random.uniform(math.cos(math.radians(_STEEPEST)), 1, _PLANES), random.uniform(0, math.tau, _PLANES)
    sine = np.sqrt(1 - cosine**2)
    normals = np.stack([sine * np.cos(turn), sine * np.sin(turn), cosine])
    places = (np.arange(window) - window // 2) / focal
    points = np.stack([*(axis.ravel() for axis in np.meshgrid(places, places)), np.ones(window**2)])
    distances = (depth + step * random.uniform(-0.5, 0.5, _PLANES)) * cosine
    rounded = step * np.round(distances / (points.T @ normals) / step)
    fitted = np.linalg.pinv(points.T) @ (1 / rounded)
    fitted /= np.linalg.norm(fitted, axis=0)
    return float(np.degrees(np.arccos(np.clip((fitted * normals).sum(0), -1, 1))).mean())


def plane_normals(
    depth: Float32[np.ndarray, "H W"], intrinsics: Sequence[float], window: int, tolerance: float
) -> Float32[np.ndarray, "3 H W"]:
    """Unit vectors of the planes round each pixel; zero vectors where there is none.

    Args:
        depth: metres along the optical axis, 0 where nothing is measured.
        intrinsics: fx, fy, cx, cy in pixels.
        window: its side in pixels, odd; it is cut at the image's edge.
        tolerance: the largest root of the mean squared residual of the inverse depth, as a share of its mean.
    """
    fx, fy, cx, cy = intrinsics
    known = depth > 0
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=known)
    v, u = np.indices(depth.shape, float)
    u, v = (u - cx) / fx, (v - cy) / fy
    inside = _sums(np.ones(depth.shape), window)
    weight = known.astype(float)
    count = _sums(weight, window)
    enough = known & (count >= 3) & (2 * count >= inside)
    count = np.where(enough, count, 1)
    means = [_sums(values * weight, window) / count for values in (u, v, inverse)]

    def moment(first: np.ndarray, second: np.ndarray, i: int, j: int) -> np.ndarray:
        return _sums(first * second * weight, window) / count - means[i] * means[j]

    uu, uv, vv = moment(u, u, 0, 0), moment(u, v, 0, 1), moment(v, v, 1, 1)
    uw, vw, ww = moment(u, inverse, 0, 2), moment(v, inverse, 1, 2), moment(inverse, inverse, 2, 2)
    determinant = uu * vv - uv**2
    # points on a line have no plane
    enough &= (determinant > _NARROW * uu * vv) & (np.minimum(uu * fx**2, vv * fy**2) > _NARROW)
    determinant = np.where(enough, determinant, 1)
    a = (vv * uw - uv * vw) / determinant
    b = (uu * vw - uv * uw) / determinant
    c = means[2] - a * means[0] - b * means[1]
    residual = np.sqrt(np.clip(ww - a * uw - b * vw, 0, None))
    fits = enough & (residual <= tolerance * means[2])
    # (a, b, c) points away from the camera, y down
    vectors = np.stack([-a, b, c])
    length = np.sqrt((vectors**2).sum(0))
    return np.where(fits, vectors / np.where(fits, length, 1), 0).astype(np.float32)


def _sums(values: Float[np.ndarray, "H W"], window: int) -> Float[np.ndarray, "H W"]:
    """The sum over the window round each pixel, cut at the edges."""
    for axis in (0, 1):
        length, half = values.shape[axis], window // 2
        running = np.concatenate([np.zeros_like(values.take([0], axis)), values.cumsum(axis)], axis)
        places = np.arange(length)
        ends, starts = np.minimum(places + half + 1, length), np.maximum(places - half, 0)
        values = running.take(ends, axis) - running.take(starts, axis)
    return values
