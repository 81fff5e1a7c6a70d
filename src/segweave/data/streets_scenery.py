"""What the synthetic streets stand in: sky, hills, ground with its markings, houses and hedges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segweave.data.streets_canvas import BUILDING, FAR, PAVEMENT, ROAD, TREE, Canvas, Dice, bits, chance, noise, rgb
from segweave.data.streets_light import Light

SCENES = ("city", "suburb", "country", "highway")
CITY, SUBURB, COUNTRY, HIGHWAY = range(4)


@dataclass(frozen=True)
class Plan:
    """The street itself, in metres; x counts from the middle of the road.

    Args:
        scene: id of SCENES.
        half: from the middle to the edge of the road.
        kerb: from the middle to the outer edge of the pavement; `half` where there is none.
        front: from the middle to the houses.
        at: x of the camera.
        crossing: z where people cross.
        striped: whether it is a zebra crossing.
        sun: side on which the sun stands, -1 or 1.
    """

    scene: int
    half: float
    kerb: float
    front: float
    at: float
    crossing: float
    striped: bool
    sun: int

    @property
    def lane(self) -> float:
        return 1.7 if self.scene in (CITY, HIGHWAY) else self.half * 0.42


def scenery(canvas: Canvas, plan: Plan, light: Light, seed: int) -> None:
    """All that stands behind the objects: sky, hills, houses and hedges."""
    dice = Dice(seed, 0)
    _sky(canvas, dice, light)
    ridge = 0.012 + 0.05 * noise(canvas.x * 9 + 20, np.ones(1), dice.seed())
    hills = rgb(0.24, 0.34, 0.24) + dice.colour(-0.03, 0.06)
    hills = np.where(light.snow, 0.5 * hills + 0.4, hills)
    canvas.paint(_rows(canvas, -0.08, 1.0), -canvas.y[_rows(canvas, -0.08, 1.0)[0]] < ridge, hills, TREE, FAR)
    for side in (-1, 1):
        if plan.scene == CITY:
            _terrace(canvas, dice, plan, side, light)
        else:
            _houses(canvas, dice, plan, side, light)
        if plan.scene == SUBURB:
            _hedge(canvas, dice, plan, side, light)


def _rows(canvas: Canvas, low: float, high: float) -> tuple[slice, slice]:
    """The rows whose rays fall by `low` to `high` per metre."""
    inside = np.flatnonzero((canvas.y[:, 0] >= low) & (canvas.y[:, 0] <= high))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0), slice(0, canvas.width)


def _sky(canvas: Canvas, dice: Dice, light: Light) -> None:
    seed, cover, sun = dice.seed(), dice.uniform(1.15, 1.9), (dice.uniform(-0.6, 0.6), dice.uniform(0.12, 0.3))
    rows = _rows(canvas, -9.0, 0.0)
    y = canvas.y[rows[0]]
    if not len(y):
        return
    share = np.clip(1 + y * 1.8, 0, 1)
    image = rgb(*light.top) + share * (rgb(*light.horizon) - rgb(*light.top))
    if light.night:
        stars = chance(seed, np.floor(canvas.x * 300), np.floor(y * 300)) > 0.997
        image = image + 0.55 * (stars & (not light.wet))
    if light.shadow > 0.4 or (light.night and not light.wet):
        dx, dy = canvas.x - sun[0], y + (0.05 if light.low else sun[1])
        far = dx * dx + dy * dy
        disc = rgb(0.75, 0.8, 0.95) if light.night else rgb(1.0, 0.9, 0.7)
        image = image + disc * (0.6 * light.shadow / (1 + 90 * far) + 1.6 * (far < (0.0006 if light.night else 0.0011)))
    cloud = noise(canvas.x * 4 + 20, y * 14 + 20, seed)
    veil = np.clip(cloud * 2.6 - cover, 0, 0.75) * (0.35 if light.night or light.fog > 0.02 else 0.95)
    tone = np.minimum(rgb(*light.level) + 0.06, 1) * (1 if not light.night else 0.7)
    canvas.image[:, rows[0]] = image + veil * (tone * (0.75 + 0.3 * cloud) - image)


def ground(canvas: Canvas, plan: Plan, light: Light, seed: int) -> None:
    dice = Dice(seed, 1)
    rows = _rows(canvas, canvas.eye / FAR, 99.0)
    z = canvas.eye / canvas.y[rows[0]]
    x = canvas.x * z + plan.at
    rough = noise(x * 3 + 1000, z * 3, dice.seed())
    grain = 0.88 + 0.24 * rough
    green = rgb(0.25, 0.40, 0.16) + dice.colour(-0.04, 0.10)
    tar = rgb(0.25, 0.25, 0.26) * dice.uniform(0.95, 1.4) * (0.7 if light.wet else 1.0)
    out = abs(x)
    white = _markings(plan, x, out, z)
    paving = 0.50 + 0.14 * dice.uniform()
    joints = (bits(np.floor(x * 1.25), np.floor(z * 0.8)) & np.uint64(3)).astype(np.float64) * 0.025
    joints = joints + 0.1 * (out < plan.half + 0.22)
    stone = rgb(1.0, 0.97, 0.92) * (paving + joints)
    ruts = 0.0
    verge = green
    if light.snow:
        verge = np.where(rough > 0.36, rgb(0.86, 0.88, 0.92), green)
        stone = 0.7 * stone + 0.2
        tread = out - plan.lane
        ruts = np.clip(0.5 * abs(abs(tread) - 0.75) - 0.1, 0, 0.35)
    road = tar + ruts + white * 0.5
    label = np.where(out < plan.half, ROAD, np.where(out < plan.kerb, PAVEMENT, TREE))
    colour = np.where(out < plan.half, road, np.where(out < plan.kerb, stone, verge)) * grain
    if plan.scene == CITY and light.shadow > 0.4:  # the houses on the sun's side throw theirs over part of the road
        colour = np.where(x * plan.sun > plan.half * dice.uniform(-0.9, 0.4), colour * (1 - light.shadow), colour)
    canvas.paint(rows, z <= FAR, colour, label, z)


def _markings(plan: Plan, x: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
    dash = np.floor(z / 3) - 2 * np.floor(z / 6) == 0
    edge = abs(out - plan.half + 0.3) < 0.08
    if plan.scene == HIGHWAY:
        line = (abs(x - np.floor(x / 3.4 + 0.5) * 3.4) < 0.09) & (out < plan.half - 1)
        return edge | (line & (dash | (out < 1)))
    stripes = plan.striped & (abs(z - plan.crossing) < 1.6) & (abs(x / 1.1 - np.floor(x / 1.1) - 0.5) < 0.25)
    kerbside = (plan.scene == COUNTRY) & edge
    return kerbside | stripes | ((out < 0.09) & dash & ((abs(z - plan.crossing) > 2.2) | (not plan.striped)))


def _wall(canvas: Canvas, plan: Plan, side: int, offset: float) -> tuple[slice, np.ndarray] | None:
    """Columns that see the plane at `offset` from the middle of the road, and its depth [1, w] in them."""
    toward, away = canvas.x[0] * side, offset - side * plan.at
    columns = np.flatnonzero(toward > away / FAR)
    if not len(columns):
        return None
    window = slice(int(columns[0]), int(columns[-1]) + 1)
    return window, (away / toward[window])[None]


def _terrace(canvas: Canvas, dice: Dice, plan: Plan, side: int, light: Light) -> None:
    """A city's row of houses wall to wall, with shops, side streets and flat roofs."""
    length, seed = dice.uniform(8, 11), dice.seed()
    found = _wall(canvas, plan, side, plan.front)
    if found is None:
        return
    columns, z = found
    rows = slice(0, canvas.height)
    number = np.floor(z / length)
    tall = 8 + 3.1 * np.floor(5 * chance(seed, number))
    up = canvas.eye - canvas.y * z
    bay = z / length * 5
    along, storey = abs(bay - np.floor(bay) - 0.5), np.floor((up - 3.4) / 3.1)
    v = (up - 3.4) / 3.1 - storey
    style = chance(seed + 1, number)
    hue = np.concatenate([0.42 + 0.42 * chance(seed + 2 + k, number) for k in range(3)])[:, None]
    wall = (0.35 * hue + 0.65 * hue[:1] * rgb(1.0, 0.90, 0.80)) * (0.8 if side == plan.sun else 0.97)
    upper, top = up > 3.4, tall - up
    pane = upper & (top > 1.0) & (abs(v - 0.45) < 0.27) & (along < 0.16 + 0.2 * style)
    lit = chance(seed + 9, np.floor(bay), storey) < (0.42 if light.night else 0.04)
    dark = rgb(0.18, 0.24, 0.32) + rgb(0.2, 0.24, 0.28) * chance(seed + 8, np.floor(bay), storey)
    colour = np.where(upper & (v < 0.06), wall * 0.86, wall)
    np.copyto(colour, wall * 1.15, where=upper & (top > 1.0) & (abs(v - 0.45) < 0.34) & (along < 0.21 + 0.2 * style))
    np.copyto(colour, np.where(lit, rgb(1.85, 1.5, 0.85), dark), where=pane)
    shop = chance(seed + 5, number) < 0.6
    banner = np.concatenate([0.15 + 0.7 * chance(seed + 11 + k, number) for k in range(3)])[:, None]
    front = (up < 2.5) & (up > 0.5) & (along < 0.44)
    night = rgb(1.5, 1.35, 1.0) if light.night else rgb(0.34, 0.38, 0.42)
    np.copyto(colour, night + 0.1 * up, where=shop & front)
    np.copyto(colour, banner, where=shop & (abs(up - 2.95) < 0.4))
    door = (np.floor(bay) - 5 * number == 2) & (up < 2.3) & (along < 0.3)
    np.copyto(colour, rgb(0.30, 0.19, 0.13) + 0.25 * (banner - 0.3), where=door)
    np.copyto(colour, wall * (0.66 if not light.snow else 1.2), where=(top < 0.5))
    present = chance(seed + 7, number) < 0.9
    canvas.paint((rows, columns), (up >= 0) & (top > 0) & present, colour, BUILDING, z)
    for k in range(1, int(FAR / length)):  # the end wall, seen beyond a gap or over a lower house
        here, before = (float(chance(seed + 7, n)[0]) < 0.9 for n in (k, k - 1))
        high, low = (8 + 3.1 * float(np.floor(5 * chance(seed, n))[0]) for n in (k, k - 1))
        card = canvas.card(side * (plan.front + 6) - plan.at, k * length, 12, high)
        if card is not None and here and not (before and low >= high):
            brick = rgb(0.5, 0.42, 0.36) * (0.75 + 0.4 * float(chance(seed + 2, k)[0]))
            canvas.paint(card[0], card[3], brick, BUILDING, k * length)


def _houses(canvas: Canvas, dice: Dice, plan: Plan, side: int, light: Light) -> None:
    spacing, share = ((0, 0), (14.0, 0.8), (24.0, 0.35), (30.0, 0.3))[plan.scene]
    for k in range(int(76 / spacing)):
        built, seed = dice.uniform() < share, dice.seed()
        near, wide = 3 + k * spacing + dice.uniform(0, 3), dice.uniform(8, 12)
        inner = side * (plan.front + dice.uniform(0, 2)) - plan.at
        if built:
            x = (inner, inner + wide) if side > 0 else (inner - wide, inner)
            _house(canvas, seed, x, near, 0.5 if light.night else 0.04, light.snow)


def _hedge(canvas: Canvas, dice: Dice, plan: Plan, side: int, light: Light) -> None:
    seed, tall = dice.seed(), dice.uniform(0.7, 1.4)
    found = _wall(canvas, plan, side, plan.kerb + 0.4)
    if found is None or dice.uniform() < 0.3:
        return
    columns, z = found
    up = canvas.eye - canvas.y * z
    rough = noise(z * 3, up * 3 + 60, seed)
    inside = (up >= 0) & (up < tall + 0.2 * (rough - 0.5)) & (chance(seed, np.floor(z / 5)) < 0.75)
    leaf = np.where(light.snow & (up > tall - 0.25), rgb(0.88, 0.9, 0.94), rgb(0.16, 0.30, 0.12) * (0.6 + 0.8 * rough))
    canvas.paint((slice(0, canvas.height), columns), inside, leaf, TREE, z)


def _house(canvas: Canvas, seed: int, x: tuple[float, float], z: float, lit: float, snow: bool) -> None:
    """A detached house with a pitched roof between `x`, from `z` on; `lit` is the share of windows with light."""
    dice = Dice(seed, BUILDING)
    deep, eaves, rise = dice.uniform(7, 11), dice.uniform(2.9, 6.0), dice.uniform(0.55, 1.0)
    hue = rgb(0.82, 0.78, 0.70) * dice.uniform(0.65, 1.1) + dice.colour(-0.14, 0.06)
    tiles = (rgb(0.55, 0.24, 0.17), rgb(0.32, 0.30, 0.32), rgb(0.42, 0.30, 0.22))[dice.integer(3)]
    shutter = dice.colour(0.15, 0.5)
    wall = canvas.solid(x, (0.0, eaves), (z, z + deep))
    if wall is not None:
        run = np.where(wall.flank, wall.along * deep, wall.across * (x[1] - x[0]))
        bay, floor = run / 2.4, wall.up / 2.9
        u, v = abs(bay - np.floor(bay) - 0.5), floor - np.floor(floor)
        pane = (u < 0.2) & (abs(v - 0.55) < 0.2) & (wall.up < eaves - 0.4)
        frame = (u < 0.34) & (abs(v - 0.55) < 0.22) & (wall.up < eaves - 0.4)
        door = (np.floor(bay) == 1) & (u < 0.22) & (wall.up < 2.1)
        bright = chance(seed, np.floor(bay), np.floor(floor), wall.flank) < lit
        colour = hue * np.where(wall.flank, 0.84, 1.0)
        np.copyto(colour, shutter, where=frame)
        np.copyto(colour, np.where(bright, rgb(1.85, 1.5, 0.85), rgb(0.2, 0.25, 0.32)), where=pane)
        np.copyto(colour, rgb(0.33, 0.19, 0.12), where=door)
        np.copyto(colour, hue * 0.55, where=wall.up < 0.25)
        canvas.paint(wall.window, wall.mask, colour, BUILDING, wall.depth)
    broad = (x[1] - x[0]) / 2 + 0.4
    roof = canvas.solid(
        (x[0] - 0.4, x[1] + 0.4), (eaves, eaves + rise * broad * 0.97), (z - 0.3, z + deep + 0.3), (0.0, 0.0, 1 / rise)
    )
    if roof is not None:
        course = roof.up * 3 - np.floor(roof.up * 3)
        slope = tiles * (0.8 + 0.3 * course)
        if snow:
            slope = rgb(0.90, 0.92, 0.96) * (0.95 + 0.05 * course)
        colour = np.where(roof.flank, slope, hue * 0.92)
        canvas.paint(roof.window, roof.mask, colour, BUILDING, roof.depth)
