"""What the synthetic streets are drawn with: random numbers, noise, a pinhole camera and its depth buffer.

Only exactly rounded operations are used (+, -, *, /, floor, comparisons and 64-bit integer arithmetic, each element on
its own), never a transcendental function, a power or a sum along an axis, and no float is ever infinite or NaN. IEEE
754 fixes their results to the last bit, so the bytes depend neither on the machine and its SIMD unit nor on NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("road", "pavement", "building", "sky", "tree", "car", "person", "sign")
ROAD, PAVEMENT, BUILDING, SKY, TREE, CAR, PERSON, SIGN = range(8)
FAR = 80.0
NOTHING = 1e6
"""Depth in metres of pixels that nothing has been painted on."""

Window = tuple[slice, slice]
_ODD, _SEVEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(29)


class Dice:
    """Uniform numbers from PCG64's raw bit stream, whose values NumPy guarantees.

    Args:
        seed, index: whole numbers, of which the lower 32 bits count.
        stream: above 0, of another independent stream of the same seed and index.
    """

    def __init__(self, seed: int, index: int, *stream: int) -> None:
        self._raw = np.random.PCG64([seed & 0xFFFFFFFF, index & 0xFFFFFFFF, *stream])

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (int(self._raw.random_raw()) >> 11) / 2**53

    def integer(self, count: int) -> int:
        """From 0 to count - 1."""
        return int(self._raw.random_raw()) % count

    def sign(self) -> int:
        return 1 - 2 * self.integer(2)

    def seed(self) -> int:
        return self.integer(1 << 30)

    def colour(self, low: float, high: float) -> np.ndarray:
        """[3, 1, 1]."""
        return np.array([self.uniform(low, high) for _ in range(3)]).reshape(3, 1, 1)


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """A colour as [3, 1, 1]; what exceeds 1 shines by itself, whatever the light."""
    return np.array([red, green, blue], np.float64).reshape(3, 1, 1)


def _stir(mixed: np.ndarray, part: np.ndarray) -> np.ndarray:
    mixed = (mixed ^ part) * _ODD
    return mixed ^ (mixed >> _SEVEN)


def _whole(values: np.ndarray | int) -> np.ndarray:
    return np.atleast_1d(np.asarray(values)).astype(np.int64).astype(np.uint64)


def bits(*parts: np.ndarray | int) -> np.ndarray:
    """Whole numbers (of any float or integer type) to 64 random bits, elementwise."""
    mixed = np.full(1, 0x9E3779B97F4A7C15, np.uint64)
    for part in parts:
        mixed = _stir(mixed, _whole(part))
    return mixed


def _unit(mixed: np.ndarray) -> np.ndarray:
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def chance(*parts: np.ndarray | int) -> np.ndarray:
    """Whole numbers to uniforms in [0, 1), elementwise."""
    return _unit(bits(*parts))


def noise(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Smooth value noise in [0, 1) with two octaves; `x` and `y` broadcast."""
    total = np.zeros(1)
    for octave, share in ((1.0, 0.65), (2.7, 0.35)):
        i, j = np.floor(x * octave), np.floor(y * octave)
        u, v = x * octave - i, y * octave - j
        u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
        left, right, low, high = bits(seed, i), bits(seed, i + 1), _whole(j), _whole(j + 1)
        a, b, c, d = (_unit(_stir(side, row)) for row in (low, high) for side in (left, right))
        bottom, top = a + (b - a) * u, c + (d - c) * u
        total = total + share * (bottom + (top - bottom) * v)
    return total


@dataclass(frozen=True)
class Hit:
    """Where the rays of a window meet a solid.

    Args:
        window: rows and columns of the picture.
        mask: bool [h, w], whether the ray meets it.
        depth: [h, w], metres.
        flank: bool [h, w], the face turned to the left or right.
        lid: bool [h, w], the upper face; elsewhere it is the near one.
        across, along: [h, w], from 0 at the left and near side to 1 at the right and far side.
        up: [h, w], metres above the ground.
    """

    window: Window
    mask: np.ndarray
    depth: np.ndarray
    flank: np.ndarray
    lid: np.ndarray
    across: np.ndarray
    along: np.ndarray
    up: np.ndarray


class Canvas:
    """Colour, class, depth and instance of every pixel, and the camera that made them.

    Lengths are metres from the camera's foot: x to the right, z forward; heights are above the ground. A ray is
    (x, -y, 1) per metre of depth, with `x` [1, W] and `y` [H, 1].

    Args:
        height, width: pixels.
        focal, horizon, centre: in pixels.
        eye: the camera's height over the ground.
        mirror: the picture that a level mirror in the ground shows, of the rows below the horizon only.
    """

    def __init__(
        self, height: int, width: int, *, focal: float, horizon: float, centre: float, eye: float, mirror: bool = False
    ) -> None:
        self.sign = -1 if mirror else 1
        self.first = min(height, int(horizon + 0.5)) if mirror else 0
        self.height, self.width = height - self.first, width
        self.focal, self.horizon, self.centre, self.eye = focal, horizon, centre, eye * self.sign
        self.x = (np.arange(width) + 0.5 - centre)[None] / focal
        self.y = (np.arange(self.first, height) + 0.5 - horizon)[:, None] / focal * self.sign
        self.image = np.zeros((3, self.height, width))
        self.semantic = np.full((self.height, width), SKY, np.uint8)
        self.depth = np.full((self.height, width), NOTHING)
        self.instance = np.zeros((self.height, width), np.int32)

    def paint(
        self,
        window: Window,
        where: np.ndarray,
        colour: np.ndarray,
        label: np.ndarray | int,
        depth: np.ndarray | float,
        number: int = 0,
    ) -> None:
        """Paints the pixels of the window that are nearer than what they show."""
        nearer = where & (depth < self.depth[window])
        np.copyto(self.image[:, window[0], window[1]], colour, where=nearer)
        np.copyto(self.semantic[window], np.asarray(label, np.uint8), where=nearer)
        np.copyto(self.depth[window], depth, where=nearer)
        np.copyto(self.instance[window], np.int32(number), where=nearer)

    def window(self, x: tuple[float, float], up: tuple[float, float], z: tuple[float, float]) -> Window | None:
        """Rows and columns that a box from near to far (`z` above 0) may cover; None if it is out of the picture."""
        columns = [side / depth * self.focal + self.centre for side in x for depth in z]
        rows = [
            (self.eye - level) / depth * self.focal * self.sign + self.horizon - self.first
            for level in up
            for depth in z
        ]
        down = slice(max(0, int(min(rows)) - 1), min(self.height, int(max(rows)) + 2))
        right = slice(max(0, int(min(columns)) - 1), min(self.width, int(max(columns)) + 2))
        return (down, right) if down.start < down.stop and right.start < right.stop else None

    def card(
        self, x: float, z: float, width: float, height: float
    ) -> tuple[Window, np.ndarray, np.ndarray, np.ndarray] | None:
        """A window, and u [1, w] from -1 to 1 across, v [h, 1] from 0 at the foot to 1, and inside [h, w] of a card."""
        window = self.window((x - width / 2, x + width / 2), (0.0, height), (z, z))
        if window is None:
            return None
        u = (self.x[:, window[1]] * z - x) / (width / 2)
        v = (self.eye - self.y[window[0]] * z) / height
        return window, u, v, (v >= 0) & (v <= 1) & (abs(u) <= 1)

    def solid(
        self,
        x: tuple[float, float],
        up: tuple[float, float],
        z: tuple[float, float],
        lean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Hit | None:
        """Meets a box whose near side, far side and both flanks lean inward by so many metres per metre of height."""
        window = self.window(x, up, z)
        if window is None:
            return None
        right, down = self.x[:, window[1]], -self.y[window[0]]
        low, (near, far, side) = self.eye - up[0], lean
        # half-spaces (nx, ny, nz, c): nx x + ny y + nz z <= c, with y counted from the eye upwards
        levels = [
            self._cut(0, near, -1, -z[0] - near * low, right, down),
            self._cut(0, far, 1, z[1] - far * low, right, down),
            self._cut(0, -1, 0, low, right, down),
        ]
        lid = self._cut(0, 1, 0, up[1] - self.eye, right, down)
        flanks = [
            self._cut(1, side, 0, x[1] - side * low, right, down),
            self._cut(-1, side, 0, -x[0] - side * low, right, down),
        ]
        front = np.maximum(np.maximum(levels[0][0], levels[1][0]), levels[2][0])
        row = np.maximum(front, lid[0])
        column = np.maximum(flanks[0][0], flanks[1][0])
        leave_row = np.minimum(np.minimum(levels[0][1], levels[1][1]), np.minimum(levels[2][1], lid[1]))
        depth = np.maximum(row, column)
        mask = (depth < np.minimum(leave_row, np.minimum(flanks[0][1], flanks[1][1]))) & (depth > 0)
        flank = column > row
        return Hit(
            window,
            mask,
            depth,
            flank,
            (lid[0] > front) & ~flank,
            (right * depth - x[0]) / (x[1] - x[0]),
            (depth - z[0]) / (z[1] - z[0]),
            self.eye + down * depth,
        )

    @staticmethod
    def _cut(
        nx: float, ny: float, nz: float, c: float, right: np.ndarray, down: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depths at which rays enter (0 if always inside) and leave a half-space."""
        slope = nx * right + nz if ny == 0 else ny * down + nz if nx == 0 else nx * right + ny * down
        depth = c / np.where(abs(slope) < 1e-9, 1e-9, slope)
        return np.where(slope < -1e-9, depth, 0.0), np.where(slope < -1e-9, NOTHING, depth)
