"""Light and weather of the synthetic streets, laid over the finished picture by its depth: no label depends on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segweave.data.streets_canvas import FAR, PAVEMENT, ROAD, SKY, Canvas, Dice, bits, chance, noise, rgb

WEATHERS = ("clear", "low sun", "overcast", "fog", "rain", "snow", "night", "wet night")


@dataclass(frozen=True)
class Light:
    """One weather.

    Args:
        top, horizon: colour of the sky.
        level: the light that falls on everything.
        fog: thickness per metre.
        shadow: share of the light that shadows take away; above 0.4 the sun shines.
        low: whether it stands low.
        wet: rain, and a road that reflects.
        snow: falling and lying.
        night: lamps and headlights are on.
    """

    top: tuple[float, float, float]
    horizon: tuple[float, float, float]
    level: tuple[float, float, float]
    fog: float
    shadow: float
    low: bool = False
    wet: bool = False
    snow: bool = False
    night: bool = False


LIGHTS = (
    Light((0.25, 0.48, 0.86), (0.76, 0.87, 0.97), (1.08, 1.05, 1.0), 0.002, 0.5),
    Light((0.36, 0.38, 0.62), (0.99, 0.70, 0.44), (1.03, 0.89, 0.77), 0.004, 0.42, low=True),
    Light((0.62, 0.66, 0.72), (0.82, 0.84, 0.87), (0.90, 0.92, 0.95), 0.004, 0.22),
    Light((0.74, 0.76, 0.78), (0.82, 0.83, 0.84), (0.92, 0.93, 0.94), 0.030, 0.12),
    Light((0.42, 0.46, 0.52), (0.62, 0.66, 0.71), (0.74, 0.77, 0.82), 0.010, 0.15, wet=True),
    Light((0.70, 0.73, 0.78), (0.85, 0.87, 0.90), (0.90, 0.93, 1.0), 0.012, 0.15, snow=True),
    Light((0.03, 0.05, 0.13), (0.16, 0.18, 0.30), (0.40, 0.45, 0.62), 0.004, 0.2, night=True),
    Light((0.05, 0.06, 0.11), (0.17, 0.17, 0.23), (0.36, 0.39, 0.50), 0.010, 0.1, wet=True, night=True),
)


@dataclass(frozen=True)
class Glow:
    """A small light seen through the air: metres, with `up` over the ground, and the colour it adds."""

    x: float
    up: float
    z: float
    radius: float
    colour: tuple[float, float, float]


def illuminate(canvas: Canvas, light: Light, lamps: list[tuple[float, float, float]], glows: list[Glow]) -> None:
    """Multiplies by the light that falls on each point and adds fog and glow; what exceeds 1 shines by itself.

    By night the camera's car has headlights, and the lamps at (x, height, z) throw pools.
    """
    solid = canvas.semantic != SKY
    level = rgb(*light.level)
    if light.night:
        z = np.minimum(canvas.depth, FAR)
        x, y = canvas.x * z, canvas.eye - canvas.y * z
        far = z * z / 260
        beam = np.clip(1.35 - abs(x) / (1.6 + 0.32 * z), 0, 1) * np.clip(1.9 - y / (0.9 + 0.05 * z), 0.12, 1)
        level = level + rgb(0.85, 0.82, 0.70) * (beam / (1 + far))
        for lamp in lamps:
            dx, dy, dz = x - lamp[0], y - lamp[1], z - lamp[2]
            pool = 14 / (14 + dx * dx + dy * dy + dz * dz)
            level = level + rgb(8.0, 6.4, 4.0) * (pool * pool)
    shown = np.minimum(canvas.image, 1) * level + np.maximum(canvas.image - 1, 0) * 0.8
    thick = np.where(solid, canvas.depth, 0) * light.fog
    clear = 1 / (1 + thick + thick * thick / 2)
    canvas.image = np.where(solid, rgb(*light.horizon) + (shown - rgb(*light.horizon)) * clear, canvas.image)
    for glow in glows:
        _glow(canvas, glow)


def _glow(canvas: Canvas, glow: Glow) -> None:
    radius = glow.radius
    x, up = (glow.x - radius, glow.x + radius), (glow.up - radius, glow.up + radius)
    window = canvas.window(x, up, (glow.z, glow.z))
    if window is None:
        return
    dx, dy = canvas.x[:, window[1]] * glow.z - glow.x, canvas.eye - canvas.y[window[0]] * glow.z - glow.up
    far = (dx * dx + dy * dy) / (radius * radius)
    share = np.maximum(0.03 / (0.03 + far) - 0.03 / 1.03, 0) * (canvas.depth[window] > glow.z)
    canvas.image[:, window[0], window[1]] += rgb(*glow.colour) * share


def reflect(canvas: Canvas, mirror: Canvas, seed: int) -> None:
    """Blends what a level mirror shows into the wet road, the more the flatter one looks at it."""
    rows = slice(mirror.first, canvas.height)
    depth = canvas.depth[rows]
    wet = ((canvas.semantic[rows] == ROAD) | (canvas.semantic[rows] == PAVEMENT)) & (depth < FAR)
    z = np.minimum(depth, FAR)
    puddle = np.clip(2.2 * noise((canvas.x * z) * 0.5 + 200, z * 0.35, seed) - 0.6, 0.35, 1)
    damp = np.where(canvas.semantic[rows] == ROAD, 1.0, 0.35)
    share = np.where(wet, damp * puddle * (0.18 + 0.5 * z / (z + 14)), 0)
    canvas.image[:, rows] += share * (mirror.image - canvas.image[:, rows])


def expose(canvas: Canvas, dice: Dice, light: Light) -> np.ndarray:
    """Rain, snowflakes and sensor noise, to uint8 [H, W, 3]."""
    image = canvas.image
    row, column = np.arange(canvas.height)[:, None], np.arange(canvas.width)[None]
    seed = dice.seed()
    if light.wet:
        run = max(4, canvas.height // 12)
        slant = column * 3 + row // 3
        streak = chance(seed, slant // 3, (row + 7 * slant) // run) > 0.985
        image = np.where(streak, image * 0.82 + 0.12, image)
    if light.snow:
        size = canvas.height / 14
        i, j = np.floor(row / size), np.floor(column / size)
        spot = bits(seed, i, j)
        u, v = ((spot >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8))
        dy, dx = row / size - i - 0.2 - 0.6 * (u / 255.0), column / size - j - 0.2 - 0.6 * (v / 255.0)
        grain = ((spot >> np.uint64(16)) & np.uint64(63)).astype(np.float64) / 63
        image = np.where(dx * dx + dy * dy < 0.012 * grain, 0.25 * image + 0.72, image)
    spark = bits(seed, row, column)
    noises = np.stack([(spark >> np.uint64(16 * k + 8)) & np.uint64(0xFFFF) for k in range(3)]) / 65536.0 - 0.5
    image = np.clip(np.floor((image + 0.03 * noises) * 255 + 0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))
