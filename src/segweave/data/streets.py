"""Seeded street scenes: a pinhole camera over a ground plane, houses in perspective, and objects between them.

The road runs along z, the depth axis; x points to the right; lengths are metres. Masks, boxes and depths are those of
the drawn pixels, so they are exact. The layout does not depend on the picture's size, and the bytes not on the machine:
`streets_canvas` says why. Light is drawn last, on the finished depth map: it has no outlines and changes no label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segweave.data.streets_canvas import CAR, CLASSES, FAR, PERSON, SIGN, SKY, TREE, Canvas, Dice
from segweave.data.streets_light import LIGHTS, WEATHERS, Glow, Light, expose, illuminate, reflect
from segweave.data.streets_objects import AWAY, BUS, CROSSING, LORRY, SIZES, TOWARD, VAN, Thing, draw
from segweave.data.streets_scenery import CITY, COUNTRY, HIGHWAY, SCENES, Plan, ground, scenery

__all__ = ["CLASSES", "OBJECTS", "SCENES", "WEATHERS", "Street", "render"]

OBJECTS = ("car", "person", "sign")
EDITION = 2
"""Raised with every change to the pixels or labels that a seed gives."""
SMALLEST = 12
"""Pixels below which an object gets no box."""


@dataclass(frozen=True)
class Street:
    """One rendered scene.

    Args:
        image: uint8 [H, W, 3].
        semantic: uint8 [H, W], ids of CLASSES; grass, fields, hedges and hills are `tree`.
        depth: float32 [H, W], metres along the optical axis, at most 80; 0 for sky.
        instances: uint16 [H, W], 1 + the position in `boxes` of the object; 0 elsewhere.
        boxes: float32 [N, 4], x1 y1 x2 y2 of the visible pixels of objects with at least 12 of them.
        labels: int64 [N], ids of OBJECTS.
        scene: id of SCENES.
        weather: id of WEATHERS.
    """

    image: np.ndarray
    semantic: np.ndarray
    depth: np.ndarray
    instances: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scene: int
    weather: int


def _plan(dice: Dice, scene: int) -> Plan:
    half = (5.3, 4.4, 3.7, 8.6)[scene] * dice.uniform(0.94, 1.1)
    kerb = half + (dice.uniform(3.0, 4.6), dice.uniform(2.2, 3.2), 0.0, 0.0)[scene]
    crossing = dice.uniform(6.0, 12)
    striped = scene < COUNTRY and dice.uniform() < 0.6
    front = kerb + (0.2, 4.5, 8.0, 13.0)[scene]
    return Plan(scene, half, kerb, front, dice.uniform(-0.6, 1.7), crossing, striped, dice.sign())


def render(seed: int, index: int, height: int, width: int) -> Street:
    """The scene number `index` of a seed at a size in pixels; the same bytes on any machine."""
    dice = Dice(seed, index)
    plan, weather = _plan(dice, dice.integer(4)), dice.integer(len(LIGHTS))
    light = LIGHTS[weather]
    focal, horizon = dice.uniform(0.75, 0.95) * width, dice.uniform(0.40, 0.50) * height
    centre, eye = dice.uniform(0.44, 0.56) * width, dice.uniform(1.4, 2.1)
    canvas = Canvas(height, width, focal=focal, horizon=horizon, centre=centre, eye=eye)
    things, backdrop, surface = _place(dice, plan, light), dice.seed(), dice.seed()
    scenery(canvas, plan, light, backdrop)
    ground(canvas, plan, light, surface)
    for thing in things:
        _shadow(canvas, thing, plan, light)
    for number, thing in enumerate(things, 1):
        draw(canvas, thing, number)
    lamps, glows = _lamps(plan, things) if light.night else ([], [])
    illuminate(canvas, light, lamps, glows)
    if light.wet:
        mirror = Canvas(height, width, focal=focal, horizon=horizon, centre=centre, eye=eye, mirror=True)
        scenery(mirror, plan, light, backdrop)
        for thing in things:
            draw(mirror, thing, 0)
        illuminate(mirror, light, lamps, glows)
        reflect(canvas, mirror, surface)
    instances, boxes, labels = _boxes(canvas.instance, things)
    image = expose(canvas, dice, light)
    depth = np.where(canvas.semantic == SKY, 0, np.minimum(canvas.depth, FAR)).astype(np.float32)
    return Street(image, canvas.semantic, depth, instances, boxes, labels, plan.scene, weather)


def _place(dice: Dice, plan: Plan, light: Light) -> list[Thing]:
    """Every object: traffic by lanes, parked cars by the kerb, people, signs and trees beside the road."""
    things: list[Thing] = []

    def add(label: int, x: float, z: float, style: int, facing: int) -> None:
        things.append(Thing(label, x - plan.at, z, style, facing, dice.seed(), light.snow))

    _traffic(dice, plan, add)
    verge = max(plan.kerb, plan.half + 1.6)
    walkers, across = ((6, 3), (5, 3), (3, 2), (0, 0))[plan.scene]
    for _ in range(dice.integer(walkers + 1) + (walkers > 0) * 2):
        side, x, z = dice.sign(), dice.uniform(plan.half + 0.4, verge - 0.4), dice.uniform(5.5, 11)
        for mate in range(2 if dice.uniform() < 0.35 else 1):
            add(PERSON, side * (x + 0.62 * mate), z + 0.3 * mate, 0, dice.integer(2))
    for _ in range(dice.integer(across + 1)):
        x, z = dice.uniform(-plan.half, plan.half), plan.crossing + dice.uniform(-1, 1)
        add(PERSON, x, z, 0, dice.integer(2))
    for k in range(dice.integer(3) + 2):
        z = 5.5 + 3.0 * k + dice.uniform(0, 2.5)
        add(SIGN, dice.sign() * (plan.half + dice.uniform(0.4, 1.1)), z, dice.integer(5), 0)
    low, high = (plan.kerb - 0.7, plan.kerb - 0.6) if plan.scene == CITY else (verge + 0.9, plan.front + 9)
    for _ in range(dice.integer((4, 6, 12, 9)[plan.scene]) + (1, 1, 3, 2)[plan.scene]):
        style, x = dice.integer(4 if plan.scene == CITY else 5), dice.sign() * dice.uniform(low, high)
        add(TREE, x, dice.uniform(7 if plan.scene else 10, 50), style, 0)
    return things


def _traffic(dice: Dice, plan: Plan, add: Callable[[int, float, float, int, int], None]) -> None:
    blocked = [(plan.crossing - 2.5, plan.crossing + 2.5)] if plan.scene < HIGHWAY else []
    if plan.scene < HIGHWAY and dice.uniform() < 0.3:
        z = dice.uniform(12, 26)
        if abs(z - plan.crossing) > 5:
            add(CAR, dice.uniform(-plan.half, plan.half), z, dice.integer(4), CROSSING)
            blocked.append((z - 2.5, z + 4.5))
    lanes = [(plan.lane, AWAY, 9.0, 16.0), (-plan.lane, TOWARD, 7.0, 16.0)]
    if plan.scene == HIGHWAY:
        lanes += [(plan.lane * 3, AWAY, 6.0, 12.0), (-plan.lane * 3, TOWARD, 7.0, 14.0)]
    if plan.scene < COUNTRY:
        lanes += [(plan.half - 1.05, AWAY, 5.5, 6.0), (1.05 - plan.half, TOWARD, 5.5, 6.0)]
    for lane, facing, start, gap in lanes:
        parked = gap == 6.0
        z = start + dice.uniform(0, gap * 1.6)
        filled = dice.uniform(0.2, 0.9)
        while z < 34:
            style = dice.integer(6) if not parked else dice.integer(4)
            style = VAN if style in (BUS, LORRY) and dice.uniform() < 0.45 else style
            length, off, here = SIZES[style][2], dice.uniform(-0.2, 0.2), dice.uniform() < filled
            clear = all(z + length < low or z > high for low, high in blocked)
            if here and clear:
                add(CAR, lane + (off if not parked else off / 2), z, style, facing)
            z += length + dice.uniform(0.15, 1) * gap


def _lamps(plan: Plan, things: list[Thing]) -> tuple[list[tuple[float, float, float]], list[Glow]]:
    """Street lamps, which hang over the kerb from wires too thin to see, and what glows: they and the cars' lights."""
    lamps = [
        (side * (plan.half - 0.3) - plan.at, 5.6, 9.0 + 18.0 * k + 9.0 * (side > 0))
        for k in range(4 if plan.scene != COUNTRY else 0)
        for side in (-1, 1)
    ]
    glows = [Glow(x, up, z, 1.8, (1.0, 0.85, 0.55)) for x, up, z in lamps]
    for thing in things:
        if thing.label == CAR and thing.facing != CROSSING:
            front = thing.facing == TOWARD
            for side in (-0.4, 0.4):
                x = thing.x + side * SIZES[thing.style][0]
                colour = (0.85, 0.8, 0.65) if front else (0.5, 0.06, 0.04)
                glows.append(Glow(x, 0.72, thing.z - 0.02, 1.1 if front else 0.6, colour))
    return lamps, glows


def _shadow(canvas: Canvas, thing: Thing, plan: Plan, light: Light) -> None:
    """Darkens the ground under and beside an object; away from the sun where it shines."""
    (left, right), (near, far), height = thing.box()
    reach = -plan.sun * height * (1.3 if light.low else 0.6) * (light.shadow > 0.4)
    left, right = min(left, left + reach), max(right, right + reach)
    window = canvas.window((left, right), (0.0, 0.0), (max(near - 0.2, 1.0), far + 0.2))
    if window is None:
        return
    depth = canvas.depth[window]
    flat = abs(canvas.y[window[0]] * depth - canvas.eye) < 1e-6
    x = canvas.x[:, window[1]] * depth
    where = flat & (x > left) & (x < right) & (depth > near - 0.2) & (depth < far + 0.2)
    patch = canvas.image[:, window[0], window[1]]
    np.copyto(patch, patch * (1 - light.shadow * (0.6 if reach else 1.0)), where=where)


def _boxes(instance: np.ndarray, things: list[Thing]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, labels, position = [], [], np.zeros(len(things) + 1, np.uint16)
    for number, thing in enumerate(things, 1):
        if thing.label == TREE:
            continue
        rows, columns = np.nonzero(instance == number)
        if len(rows) >= SMALLEST:
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            labels.append(thing.label - CAR)
            position[number] = len(boxes)
    return position[instance], np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
