"""Seeded street scenes: a pinhole camera over a ground plane, facades in perspective, and objects that stand on it.

Every pixel is made with additions, multiplications, divisions, floors and integer hashes only, on random numbers from
PCG64's raw stream: results are the same bytes on any machine. Lengths are metres; x to the right, z forward, the road
along z. The layout does not depend on the picture's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("road", "pavement", "building", "sky", "tree", "car", "person", "sign")
SCENES = ("city", "suburb", "country", "highway")
OBJECTS = ("car", "person", "sign")
ROAD, PAVEMENT, BUILDING, SKY, TREE, CAR, PERSON, SIGN = range(8)
FAR = 80.0

Colour = np.ndarray


@dataclass(frozen=True)
class Street:
    """One rendered scene.

    Args:
        image: uint8 [H, W, 3].
        semantic: uint8 [H, W], ids of CLASSES; grass, fields and hedges are `tree`.
        depth: float32 [H, W], metres along the optical axis, at most 80; 0 for sky.
        boxes: float32 [N, 4], x1 y1 x2 y2 of the visible pixels of objects with at least 12 of them.
        labels: int64 [N], ids of OBJECTS.
        scene: id of SCENES.
    """

    image: np.ndarray
    semantic: np.ndarray
    depth: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scene: int


class _Dice:
    """Uniform numbers from the raw bit stream, whose values NumPy guarantees."""

    def __init__(self, seed: int, index: int) -> None:
        self._raw = np.random.PCG64([seed & 0xFFFFFFFF, index & 0xFFFFFFFF])

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (int(self._raw.random_raw()) >> 11) / 2**53

    def integer(self, count: int) -> int:
        return int(self._raw.random_raw()) % count

    def colour(self, low: float, high: float) -> Colour:
        return np.array([self.uniform(low, high) for _ in range(3)])


def _hash(*parts: np.ndarray | int) -> np.ndarray:
    """Whole numbers to uniforms in [0, 1), elementwise."""
    mixed = np.uint64(0x9E3779B97F4A7C15) + np.zeros(1, np.uint64)
    for part in parts:
        mixed = (mixed ^ np.asarray(part, np.int64).astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = mixed ^ (mixed >> np.uint64(29))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


@dataclass(frozen=True)
class _Light:
    top: tuple[float, float, float]
    horizon: tuple[float, float, float]
    level: float
    fog: float


_LIGHTS = (
    _Light((0.30, 0.52, 0.86), (0.76, 0.87, 0.97), 1.0, 0.002),  # clear
    _Light((0.36, 0.38, 0.62), (0.98, 0.70, 0.46), 0.82, 0.004),  # low sun
    _Light((0.62, 0.66, 0.72), (0.80, 0.82, 0.85), 0.85, 0.004),  # overcast
    _Light((0.03, 0.04, 0.10), (0.12, 0.13, 0.22), 0.36, 0.006),  # night
    _Light((0.74, 0.76, 0.78), (0.82, 0.83, 0.84), 0.90, 0.030),  # fog
    _Light((0.42, 0.46, 0.52), (0.60, 0.64, 0.69), 0.66, 0.010),  # rain
)
_NIGHT, _RAIN = 3, 5


class _Canvas:
    """Colour, class, depth and instance of every pixel, and the camera that made them."""

    def __init__(self, dice: _Dice, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.focal = dice.uniform(0.75, 0.95) * width
        self.eye = dice.uniform(1.4, 2.1)
        self.horizon = dice.uniform(0.40, 0.50) * height
        self.centre = dice.uniform(0.44, 0.56) * width
        self.x = (np.arange(width) + 0.5 - self.centre)[None] / self.focal
        self.y = (np.arange(height) + 0.5 - self.horizon)[:, None] / self.focal
        self.image = np.zeros((height, width, 3))
        self.semantic = np.full((height, width), SKY, np.uint8)
        self.depth = np.full((height, width), np.inf)
        self.instance = np.zeros((height, width), np.int32)

    def paint(self, where: np.ndarray, colour: np.ndarray, label: int, depth: np.ndarray | float) -> None:
        where = where & (depth < self.depth)
        self.image[where] = np.broadcast_to(colour, self.image.shape)[where]
        self.semantic[where] = label
        self.depth[where] = np.broadcast_to(depth, self.depth.shape)[where]
        self.instance[where] = 0

    def window(self, x: float, z: float, width: float, height: float) -> tuple[slice, slice] | None:
        """Rows and columns that an upright rectangle standing at (x, z) covers; None if it is out of the picture."""
        left, right = ((x + side * width / 2) / z * self.focal + self.centre for side in (-1, 1))
        top, bottom = ((self.eye - y) / z * self.focal + self.horizon for y in (height, 0.0))
        rows = slice(max(0, int(top)), min(self.height, int(bottom) + 2))
        columns = slice(max(0, int(left)), min(self.width, int(right) + 2))
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _sky(canvas: _Canvas, dice: _Dice, light: _Light) -> None:
    share = np.clip(1 + canvas.y * canvas.focal / canvas.horizon, 0, 1)[..., None]
    canvas.image[:] = (1 - share) * np.array(light.top) + share * np.array(light.horizon)
    seed = dice.integer(1 << 30)
    cloud = _noise(canvas.x * 4 + np.zeros_like(canvas.y), canvas.y * 14 + np.zeros_like(canvas.x), seed)
    veil = np.clip(cloud * 2.6 - dice.uniform(1.2, 1.9), 0, 0.75)[..., None] * (0.25 + 0.75 * light.level)
    canvas.image[:] = (1 - veil) * canvas.image + veil * min(1.0, light.level + 0.05)


def _noise(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Smooth value noise in [0, 1) with two octaves."""
    total = np.zeros(np.broadcast(x, y).shape)
    for octave, share in ((1.0, 0.65), (2.7, 0.35)):
        i, j = np.floor(x * octave), np.floor(y * octave)
        u, v = x * octave - i, y * octave - j
        u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
        a, b = _hash(i, j, seed), _hash(i + 1, j, seed)
        c, d = _hash(i, j + 1, seed), _hash(i + 1, j + 1, seed)
        total += share * ((a * (1 - u) + b * u) * (1 - v) + (c * (1 - u) + d * u) * v)
    return total


def _ground(canvas: _Canvas, dice: _Dice, scene: int, half: float, kerb: float, weather: int) -> None:
    below = canvas.y > canvas.eye / FAR
    z = np.where(below, canvas.eye / np.where(below, canvas.y, 1), FAR)
    x = canvas.x * z
    z = z + np.zeros_like(x)
    where = below & (x == x)
    seed = dice.integer(1 << 30)
    grain = (0.9 + 0.2 * _noise(x * 3, z * 3, seed))[..., None]
    green = np.array([0.25, 0.40, 0.16]) + dice.colour(-0.05, 0.10)
    canvas.paint(where, green * grain, TREE, z)
    if kerb > half:
        paving = 0.50 + 0.14 * dice.uniform()
        joints = ((np.floor(x * 1.25) * 7 + np.floor(z * 0.8) * 13) % 3 * 0.03)[..., None]
        canvas.depth[where & (abs(x) < kerb)] = np.inf
        canvas.paint(where & (abs(x) < kerb), (paving + joints) * grain * np.array([1.0, 0.97, 0.92]), PAVEMENT, z)
    tar = np.zeros(3) + dice.uniform(0.24, 0.36) * (0.75 if weather == _RAIN else 1.0)
    lanes = 3.4
    line = (abs(x - np.floor(x / lanes + 0.5) * lanes) < 0.09) & (np.floor(z / 3) % 2 == 0)
    edge = abs(abs(x) - half + 0.3) < 0.08
    crossing = dice.uniform(8, 22) if scene < 2 and dice.uniform() < 0.6 else -9.0
    stripes = (abs(z - crossing) < 1.6) & (np.floor(x / 0.6) % 2 == 0)
    white = ((line | edge | stripes) * 0.48)[..., None]
    canvas.depth[where & (abs(x) < half)] = np.inf
    canvas.paint(where & (abs(x) < half), tar * grain + white, ROAD, z)


def _facades(canvas: _Canvas, dice: _Dice, scene: int, offset: float, night: bool) -> None:
    """Walls parallel to the road on both sides, cut into houses by depth."""
    length, tallest, density = ((9.0, 20.0, 0.96), (12.0, 7.0, 0.72), (26.0, 6.0, 0.22), (34.0, 12.0, 0.2))[scene]
    for side in (-1, 1):
        seed = dice.integer(1 << 30)
        toward = canvas.x * side
        z = np.where(toward > offset / FAR, offset / np.where(toward > 0, toward, 1), np.inf) + np.zeros_like(canvas.y)
        solid = np.isfinite(z)
        near = np.where(solid, z, 1.0)
        up = canvas.eye - canvas.y * near
        house = np.floor(near / length)
        tall = tallest * (0.55 + 0.45 * _hash(house, seed))
        inside = solid & (up >= 0) & (up < tall) & (_hash(house, seed + 1) < density)
        along, floor = near / length * 5 % 1, up / 3.0
        window = (abs(along - 0.5) < 0.27) & (abs(floor % 1 - 0.55) < 0.27) & (up < tall - 0.7)
        door = (np.floor(near / length * 5) % 5 == 2) & (up < 2.2) & (abs(along - 0.5) < 0.3)
        hue = np.stack([0.34 + 0.46 * _hash(house, seed + 2 + k) for k in range(3)], -1)
        wall = (0.45 * hue + 0.55 * hue[..., :1] * np.array([1.0, 0.93, 0.86])) * (0.92 if side > 0 else 0.78)
        roof = (up > tall - 0.6)[..., None]
        lit = (_hash(np.floor(near / length * 5), np.floor(floor), seed + 9) < (0.45 if night else 0.04))[..., None]
        glass = np.where(lit, np.array([1.9, 1.5, 0.8]), np.array([0.22, 0.28, 0.36]))
        colour = np.where(roof, wall * 0.6, wall)
        colour = np.where((window & ~door)[..., None], glass, colour)
        colour = np.where(door[..., None], np.array([0.30, 0.18, 0.12]), colour)
        canvas.paint(inside, colour, BUILDING, z)


def _object(canvas: _Canvas, dice: _Dice, kind: int, x: float, z: float) -> tuple[np.ndarray, np.ndarray, tuple] | None:
    """Shape and colour of an object in the window it covers: u from -1 to 1 across, v from 0 at its foot to 1."""
    sizes = {CAR: (1.9, 1.5), PERSON: (0.75, 1.75), SIGN: (0.9, 2.9), TREE: (3.6, 5.6)}
    width, height = (length * dice.uniform(0.9, 1.2) for length in sizes[kind])
    variant, tint, seed = dice.integer(3), dice.colour(0.12, 0.85), dice.integer(1 << 30)
    window = canvas.window(x, z, width, height)
    if window is None or z < 2:
        return None
    u = (canvas.x[:, window[1]] * z - x) / (width / 2)
    v = (canvas.eye - canvas.y[window[0]] * z) / height
    mask, colour = _SHAPES[kind](u + 0 * v, v + 0 * u, variant, tint, seed)
    return mask & (v >= 0) & (v <= 1) & (abs(u) <= 1), colour, window


def _car(u: np.ndarray, v: np.ndarray, variant: int, tint: Colour, seed: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG001
    body = (v > 0.14) & (v < 0.58)
    cabin = (v >= 0.58) & (v < 0.97) & (abs(u) < 0.96 - 0.55 * (v - 0.55))
    wheels = (v <= 0.2) & (abs(abs(u) - 0.74) < 0.2)
    glass = cabin & (v > 0.63) & (v < 0.9) & (abs(u) < 0.83 - 0.55 * (v - 0.55))
    lights = body & (abs(v - 0.44) < 0.07) & (abs(abs(u) - 0.79) < 0.13)
    colour = (tint * (0.75 + 0.35 * v[..., None])) + np.zeros((*u.shape, 3))
    colour[glass] = (0.16, 0.21, 0.27)
    colour[lights] = (1.5, 0.12, 0.1) if variant else (1.8, 1.7, 1.4)
    colour[body & (abs(v - 0.27) < 0.05) & (abs(u) < 0.3)] = (0.8, 0.8, 0.72)
    colour[wheels & ~body] = (0.05, 0.05, 0.05)
    return body | cabin | wheels, colour


def _person(u: np.ndarray, v: np.ndarray, variant: int, tint: Colour, seed: int) -> tuple[np.ndarray, np.ndarray]:
    head = (u * 0.375) ** 2 + ((v - 0.91) * 1.75) ** 2 < 0.0185
    torso = (v > 0.47) & (v < 0.83) & (abs(u) < 0.62)
    stride = 0.14 + 0.2 * variant * (0.5 - v)
    legs = (v <= 0.47) & (abs(abs(u) - stride - 0.1) < 0.24)
    colour = tint + np.zeros((*u.shape, 3))
    colour[legs] = 0.45 * tint[::-1] + 0.04
    colour[head] = np.array([0.86, 0.66, 0.52]) * (0.5 + 0.5 * (seed % 7) / 6)
    return head | torso | legs, colour


def _sign(u: np.ndarray, v: np.ndarray, variant: int, tint: Colour, seed: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG001
    pole = (abs(u) < 0.13) & (v < 0.8)
    high = (v - 0.83) * 2.9 / 0.45
    radius = u * u + high * high
    plate = (radius < 0.95, (abs(u) < (1 - high) / 2) & (high > -1), (abs(u) < 0.95) & (abs(high) < 1))[variant]
    rim = (radius > 0.6, abs(u) > (0.4 - high) / 2, (abs(u) > 0.8) | (abs(high) > 0.85))[variant]
    colour = np.full((*u.shape, 3), 0.42)
    colour[plate] = (0.92, 0.92, 0.9) if variant < 2 else (0.1, 0.25, 0.7)
    colour[plate & rim] = (0.82, 0.08, 0.1) if variant < 2 else (0.95, 0.95, 0.95)
    return pole | plate, colour


def _tree(u: np.ndarray, v: np.ndarray, variant: int, tint: Colour, seed: int) -> tuple[np.ndarray, np.ndarray]:
    trunk = (abs(u) < 0.08) & (v < 0.5)
    rough = _noise(u * 4, v * 6, seed)
    round_crown = u * u + ((v - 0.64) / 0.36) ** 2 < 0.7 + 0.5 * rough - 0.2
    conifer = (v > 0.16) & (abs(u) < (1 - v) * 0.95 + 0.18 * rough)
    crown = conifer if variant == 0 else round_crown
    leaf = np.array([0.16 + 0.2 * tint[0], 0.36 + 0.12 * tint[1], 0.12])
    shade = 0.55 + 0.5 * rough + 0.25 * v - 0.12 * u
    colour = np.where(crown[..., None], leaf * shade[..., None], np.array([0.33, 0.23, 0.15]))
    return trunk | crown, colour


_SHAPES = {CAR: _car, PERSON: _person, SIGN: _sign, TREE: _tree}


def _place(dice: _Dice, scene: int, half: float, kerb: float) -> list[tuple[float, float, int]]:
    """(z, x, kind) of every object; people and signs stand beside the road, cars on it."""
    cars, people, signs, trees = ((5, 10, 4, 3), (4, 8, 4, 7), (2, 4, 3, 12), (7, 0, 5, 6))[scene]
    verge = max(kerb, half + 1.6)
    things = []
    for _ in range(dice.integer(cars) + 2):
        lane = (-1.7, 1.7)[dice.integer(2)] if dice.uniform() < 0.6 else (half - 1.2) * (1, -1)[dice.integer(2)]
        things.append((dice.uniform(5, 36), lane + dice.uniform(-0.3, 0.3), CAR))
    for kind, count, low, high, near, far in (
        (PERSON, people, half + 0.3, verge - 0.2, 4, 15),
        (SIGN, signs, half + 0.3, half + 1.2, 5, 24),
        (TREE, trees, verge + 0.6, verge + (1.2 if scene == 0 else 7), 7, 45),
    ):
        for _ in range(dice.integer(count + 1) + (count > 0)):
            x = dice.uniform(low, high) * (1, -1)[dice.integer(2)]
            things.append((dice.uniform(near, far), x, kind))
    return sorted(things, reverse=True)


def _shadow(canvas: _Canvas, x: float, z: float, width: float, strength: float) -> None:
    flat = (canvas.semantic == ROAD) | (canvas.semantic == PAVEMENT) | (canvas.semantic == TREE)
    where = flat & (abs(canvas.x * canvas.depth - x - 0.2) < width) & (abs(canvas.depth - z) < 0.8)
    on_ground = abs(canvas.y * canvas.depth - canvas.eye) < 0.05
    canvas.image[where & on_ground] *= 1 - strength


def render(seed: int, index: int, height: int, width: int) -> Street:
    """The scene number `index` of a seed at a size in pixels; the same bytes on any machine."""
    dice = _Dice(seed, index)
    scene, weather = dice.integer(4), dice.integer(len(_LIGHTS))
    light = _LIGHTS[weather]
    canvas = _Canvas(dice, height, width)
    half = (5.1, 4.2, 3.7, 8.6)[scene] * dice.uniform(0.9, 1.1)
    kerb = half + (dice.uniform(2.4, 3.8), dice.uniform(1.6, 2.4), 0.0, 0.0)[scene]
    _sky(canvas, dice, light)
    with np.errstate(invalid="ignore"):
        _ground(canvas, dice, scene, half, kerb, weather)
        _facades(canvas, dice, scene, kerb + (0.4, 4.5, 9.0, 14.0)[scene], weather == _NIGHT)
    _distant(canvas, dice)
    kinds = []
    with np.errstate(invalid="ignore"):
        for z, x, kind in _place(dice, scene, half, kerb):
            if kind != SIGN:
                _shadow(canvas, x, z, 1.0 if kind == CAR else 0.35, 0.4 if light.level > 0.8 else 0.2)
            kinds.append(kind)
            made = _object(canvas, dice, kind, x, z)
            if made is None:
                continue
            mask, colour, (rows, columns) = made
            mask &= z < canvas.depth[rows, columns]
            canvas.image[rows, columns][mask] = colour[mask]
            canvas.semantic[rows, columns][mask] = kind
            canvas.depth[rows, columns][mask] = z
            canvas.instance[rows, columns][mask] = len(kinds)
    boxes, labels = _boxes(canvas.instance, kinds)
    image = _expose(canvas, dice, light, weather)
    depth = np.where(canvas.semantic == SKY, 0, np.minimum(canvas.depth, FAR)).astype(np.float32)
    return Street(image, canvas.semantic, depth, boxes, labels, scene)


def _distant(canvas: _Canvas, dice: _Dice) -> None:
    """A line of trees or hills where the ground ends, so that no sky shows below the horizon."""
    ridge = 0.012 + 0.05 * _noise(canvas.x * 9, canvas.x * 0 + 1, dice.integer(1 << 30))
    where = (-canvas.y < ridge) & np.isinf(canvas.depth)
    canvas.paint(where, np.array([0.20, 0.30, 0.20]) + dice.colour(-0.03, 0.06), TREE, FAR)


def _expose(canvas: _Canvas, dice: _Dice, light: _Light, weather: int) -> np.ndarray:
    """Light, fog, rain and sensor noise to uint8."""
    solid = canvas.semantic != SKY
    image = canvas.image.copy()
    image[solid] *= light.level
    thick = np.where(solid, np.where(solid, canvas.depth, 0) * light.fog, 0)
    clear = (1 / (1 + thick + thick * thick / 2))[..., None]
    image = image * clear + np.array(light.horizon) * (1 - clear)
    row, column = np.arange(canvas.height)[:, None], np.arange(canvas.width)[None]
    seed = dice.integer(1 << 30)
    if weather == _RAIN:
        streak = _hash(column * 3 + row // 9, row // 9, seed) > 0.985
        image = np.where(streak[..., None], image * 0.8 + 0.18, image)
    noise = np.stack([_hash(row, column, seed + k) for k in range(1, 4)], -1) - 0.5
    return np.clip(np.floor((image + 0.03 * noise) * 255 + 0.5), 0, 255).astype(np.uint8)


def _boxes(instance: np.ndarray, kinds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    boxes, labels = [], []
    for number, kind in enumerate(kinds, 1):
        rows, columns = np.nonzero(instance == number)
        if kind != TREE and len(rows) >= 12:
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            labels.append(kind - CAR)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
