"""What stands in the synthetic streets: cars and houses as solids; people, signs and trees as upright cards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segweave.data.streets_canvas import CAR, PERSON, SIGN, TREE, Canvas, Dice, Hit, noise, rgb

AWAY, TOWARD, CROSSING = range(3)
HATCHBACK, SALOON, OFF_ROADER, VAN, BUS, LORRY = range(6)
SIZES = ((1.75, 1.48, 3.9), (1.8, 1.42, 4.5), (1.9, 1.75, 4.6), (2.0, 2.2, 5.2), (2.5, 3.1, 10.5), (2.45, 3.2, 8.0))
"""Width, height and length of each kind of car, metres."""


@dataclass(frozen=True)
class Thing:
    """One object and everything that decides how it looks.

    Args:
        label: id of CLASSES.
        x, z: where its foot is, metres from the camera; `z` is its nearest point.
        style: which kind of it.
        facing: AWAY, TOWARD or CROSSING, for cars.
        seed: of its own random numbers.
        snow: whether snow lies on it.
    """

    label: int
    x: float
    z: float
    style: int
    facing: int
    seed: int
    snow: bool = False

    def box(self) -> tuple[tuple[float, float], tuple[float, float], float]:
        """What it covers of the ground, from left to right and from near to far, and its height; metres."""
        if self.label == CAR:
            width, height, length = SIZES[self.style]
            wide, deep = (length, width) if self.facing == CROSSING else (width, length)
            return (self.x - wide / 2, self.x + wide / 2), (self.z, self.z + deep), height
        half, height = {PERSON: (0.26, 1.7), SIGN: (0.05, 2.2), TREE: (1.2, 5.0)}[self.label]
        return (self.x - half, self.x + half), (self.z - 0.2, self.z + 0.2), height


def draw(canvas: Canvas, thing: Thing, number: int) -> None:
    """Paints it as the instance `number`."""
    _PAINTERS[thing.label](canvas, Dice(thing.seed, thing.label), thing, number)


_CABINS = {
    HATCHBACK: (0.25, 0.99, 0.57, 1.0, 0.95, 0.3),
    SALOON: (0.27, 0.86, 0.57, 1.0, 1.0, 0.8),
    OFF_ROADER: (0.25, 1.0, 0.58, 1.0, 0.6, 0.1),
}
"""From the front to the rear and from the ground up, as shares of length and height; lean of windscreen and rear."""
_LACQUER = ((0.80, 0.80, 0.82), (0.12, 0.12, 0.14), (0.50, 0.52, 0.55), (0.66, 0.09, 0.09), (0.10, 0.20, 0.48))
_LIVERY = ((0.72, 0.12, 0.10), (0.86, 0.70, 0.16), (0.16, 0.42, 0.30))


@dataclass(frozen=True)
class _Skin:
    """The visible surface of one solid of a car.

    Args:
        colour: [3, h, w], painted in place.
        flank, end: bool [h, w], the faces beside and at the ends of the car.
        run: [h, w], 0 to 1 along the car; `cross`: 0 to 1 across it.
        up: [h, w], metres above the ground; `v`: 0 to 1 above the solid's foot.
    """

    car: Thing
    colour: np.ndarray
    flank: np.ndarray
    end: np.ndarray
    run: np.ndarray
    cross: np.ndarray
    up: np.ndarray
    v: np.ndarray

    def fill(self, where: np.ndarray, colour: np.ndarray) -> None:
        np.copyto(self.colour, colour, where=where)


def _car(canvas: Canvas, dice: Dice, car: Thing, number: int) -> None:
    """One or two solids, each with a texture that may leave parts of it out (under the floor)."""
    common = dice.integer(9)
    tint = rgb(*_LACQUER[common]) if common < len(_LACQUER) else dice.colour(0.1, 0.75)
    reverse = dice.integer(2) == 0
    if car.style == VAN:
        parts = [(_body, (0.0, 1.0, 0.0, 0.52, 0.1, 0.0)), (_panel, (0.1, 1.0, 0.52, 1.0, 0.75, 0.0))]
    elif car.style == BUS:
        tint = rgb(*_LIVERY[dice.integer(3)])
        parts = [(_coach, (0.0, 1.0, 0.0, 1.0, 0.03, 0.0))]
    elif car.style == LORRY:
        parts = [(_body, (0.0, 0.25, 0.0, 0.42, 0.0, 0.0)), (_glass, (0.0, 0.25, 0.42, 0.85, 0.15, 0.0))]
        parts += [(_cargo, (0.28, 1.0, 0.0, 1.0, 0.0, 0.0))]
    else:
        cabin = _CABINS[car.style]
        parts = [(_body, (0.0, 1.0, 0.0, cabin[2], 0.25, 0.15)), (_glass, cabin)]
    height = SIZES[car.style][1]
    for texture, part in parts:
        hit = _part(canvas, car, part, reverse)
        if hit is None:
            continue
        turned = car.facing == CROSSING
        shade = np.where(hit.lid, 1.12, np.where(hit.flank, 0.82, 0.96))
        skin = _Skin(
            car,
            tint * (shade * (0.86 + 0.1 * hit.up)),
            (hit.flank != turned) & ~hit.lid,
            (hit.flank == turned) & ~hit.lid,
            hit.across if turned else hit.along,
            hit.along if turned else hit.across,
            hit.up,
            (hit.up / height - part[2]) / (part[3] - part[2]),
        )
        solid = texture(skin)
        if car.snow and part[3] >= 0.85:
            skin.fill(hit.lid | (hit.up > height - 0.06), rgb(0.93, 0.94, 0.97))
        canvas.paint(hit.window, hit.mask & solid, skin.colour, CAR, hit.depth, number)


def _part(canvas: Canvas, car: Thing, part: tuple[float, ...], reverse: bool) -> Hit | None:
    width, height, length = SIZES[car.style]
    front, rear, low, high, windscreen, back = part
    up = (low * height, high * height)
    tumblehome = 0.2 if low > 0.4 else 0.0
    if car.facing == CROSSING:
        start, stop = (1 - rear, 1 - front) if reverse else (front, rear)
        x = (car.x + (start - 0.5) * length, car.x + (stop - 0.5) * length)
        return canvas.solid(x, up, (car.z, car.z + width), (tumblehome, tumblehome, (windscreen + back) / 2))
    x = (car.x - width / 2, car.x + width / 2)
    if car.facing == AWAY:
        z = (car.z + (1 - rear) * length, car.z + (1 - front) * length)
        return canvas.solid(x, up, z, (back, windscreen, tumblehome))
    return canvas.solid(x, up, (car.z + front * length, car.z + rear * length), (windscreen, back, tumblehome))


def _chassis(skin: _Skin) -> np.ndarray:
    """Wheels, lights and plate; what is solid of a part that reaches to the ground."""
    length, oncoming = SIZES[skin.car.style][2], skin.car.facing == TOWARD
    big = 0.48 if skin.car.style in (BUS, LORRY) else 0.33
    hub, rise = (abs(skin.run - 0.5) - 0.31) * length, skin.up - big
    round_ = hub * hub + rise * rise
    middle = abs(skin.cross - 0.5)
    wheels = (skin.flank & (round_ < big * big)) | (skin.end & (middle > 0.36) & (skin.up < big))
    skin.fill(skin.end & (abs(skin.up - 0.36) < 0.09) & ~wheels, skin.colour * 0.45)
    skin.fill(wheels, rgb(0.05, 0.05, 0.06))
    skin.fill(skin.flank & (round_ < 0.3 * big * big), rgb(0.6, 0.6, 0.62))
    skin.fill(skin.end & (abs(skin.up - 0.5) < 0.07) & (middle < 0.15), rgb(0.88, 0.87, 0.78))
    if oncoming:
        skin.fill(skin.end & (abs(skin.up - 0.7) < 0.06) & (middle < 0.27), rgb(0.1, 0.1, 0.11))
    lights = skin.end & (abs(middle - 0.4) < 0.075) & (abs(skin.up - 0.72) < 0.09)
    skin.fill(lights, rgb(1.75, 1.7, 1.5) if oncoming else rgb(1.45, 0.1, 0.08))
    return wheels | (skin.up > 0.22)


def _body(skin: _Skin) -> np.ndarray:
    seam = skin.flank & (abs(abs(skin.run - 0.52) - 0.14) < 0.006) & (skin.up > 0.3)
    skin.fill(seam, skin.colour * 0.6)
    return _chassis(skin)


def _glass(skin: _Skin) -> bool:
    pane = (skin.v > 0.1) & (skin.v < 0.86)
    sides = skin.flank & (abs(skin.run - 0.5) < 0.42) & (abs(skin.run - 0.52) > 0.03)
    ends = skin.end & (abs(skin.cross - 0.5) < 0.43)
    skin.fill(pane & (sides | ends), rgb(0.13, 0.17, 0.22) + rgb(0.16, 0.19, 0.22) * skin.v)
    return True


def _panel(skin: _Skin) -> bool:
    """The upper half of a van: glass in front and in the rear doors, sheet metal between."""
    pane, oncoming, middle = (skin.v > 0.08) & (skin.v < 0.72), skin.car.facing == TOWARD, abs(skin.cross - 0.5)
    from_front = 1 - skin.run if skin.car.facing == AWAY else skin.run
    sides = skin.flank & (abs(from_front - 0.19) < 0.11)
    ends = skin.end & (middle < 0.44) if oncoming else skin.end & (abs(middle - 0.2) < 0.17)
    skin.fill(pane & (sides | ends), rgb(0.14, 0.18, 0.23) + rgb(0.14, 0.17, 0.2) * skin.v)
    return True


def _coach(skin: _Skin) -> np.ndarray:
    panes, middle = skin.run * 7 - np.floor(skin.run * 7), abs(skin.cross - 0.5)
    glass = (skin.flank & (abs(panes - 0.5) < 0.44)) | (skin.end & (middle < 0.44))
    skin.fill(glass & (skin.up > 1.3) & (skin.up < 2.45), rgb(0.16, 0.2, 0.25) + rgb(0.05, 0.06, 0.07) * skin.up)
    skin.fill((skin.flank | skin.end) & (abs(skin.up - 1.1) < 0.09), rgb(0.86, 0.85, 0.8))
    route = skin.end & (abs(skin.up - 2.72) < 0.14) & (middle < 0.3)
    skin.fill(route, rgb(1.3, 0.95, 0.2) if skin.car.facing == TOWARD else rgb(0.1, 0.1, 0.1))
    return _chassis(skin)


def _cargo(skin: _Skin) -> np.ndarray:
    box = skin.up > 0.95
    pale = rgb(0.8, 0.79, 0.76) * np.where(skin.flank, 0.85, 1.0)
    skin.fill(box, pale)
    skin.fill(box & skin.end & (abs(skin.cross - 0.5) < 0.015), pale * 0.7)
    skin.fill(~box, rgb(0.12, 0.12, 0.13))
    return _chassis(skin)


def _person(canvas: Canvas, dice: Dice, person: Thing, number: int) -> None:
    height = dice.uniform(1.55, 1.9) if dice.uniform() < 0.82 else dice.uniform(1.0, 1.35)
    card = canvas.card(person.x, person.z, 0.5 * height, height)
    if card is None:
        return
    window, u, v, inside = card
    skin = rgb(0.88, 0.68, 0.55) * dice.uniform(0.4, 1.0)
    coat, trousers, hair = dice.colour(0.08, 0.9), dice.colour(0.06, 0.45), dice.colour(0.05, 0.5)
    stride, swing, skirt, bag = dice.uniform(0.1, 0.55), dice.uniform(-0.5, 0.7), dice.integer(4), dice.integer(3)
    build = dice.uniform(0.95, 1.3)
    head = u * u * 0.0625 + (v - 0.925) * (v - 0.925) < 0.0052
    neck = (abs(u) < 0.12) & (v > 0.8) & (v < 0.9)
    torso = (v > 0.47) & (v < 0.83) & (abs(u) < build * (0.30 + 0.4 * (v - 0.47)))
    thigh = 0.5 - v
    legs = (v <= 0.5) & ((abs(u - 0.15 - stride * thigh) < 0.15) | (abs(u + 0.15 + stride * thigh) < 0.15))
    if skirt == 0:
        legs |= (v <= 0.5) & (v > 0.24) & (abs(u) < 0.3 + 0.4 * (0.5 - v))
    fall = 0.8 - v
    arms = (abs(u - 0.42 * build - swing * fall) < 0.1) | (abs(u + 0.42 * build + swing * fall * 0.7) < 0.1)
    arms &= (v > 0.43) & (v < 0.81)
    body = head | neck | torso | legs | arms
    colour = coat * np.where(u > 0.12, 0.82, 1.0) + np.zeros((3, *body.shape))
    np.copyto(colour, trousers, where=legs & (v < 0.47))
    np.copyto(colour, rgb(0.1, 0.08, 0.07), where=legs & (v < 0.06))
    np.copyto(colour, coat * 0.7, where=arms & ~torso)
    np.copyto(colour, skin, where=head | neck | (arms & (v < 0.47)))
    np.copyto(colour, hair, where=head & ((v > 0.945) | (person.facing == AWAY)))
    if bag == 0:
        pack = (abs(u - 0.5) < 0.18) & (abs(v - 0.42) < 0.075)
        body |= pack
        np.copyto(colour, trousers[::-1] + 0.1, where=pack)
    canvas.paint(window, inside & body, colour, PERSON, person.z, number)


def _sign(canvas: Canvas, dice: Dice, sign: Thing, number: int) -> None:
    width, top = dice.uniform(0.76, 0.9), dice.uniform(2.2, 2.8)
    card = canvas.card(sign.x, sign.z, width, top)
    if card is None:
        return
    window, u, v, inside = card
    high = ((v - 1) * top + width / 2) / (width / 2)
    pole = (abs(u) * width < 0.12) & (high < 0)
    square = (abs(u) < 0.97) & (abs(high) < 0.97)
    side = np.maximum(abs(u), abs(high))
    white, red, blue = rgb(0.94, 0.94, 0.92), rgb(0.82, 0.07, 0.09), rgb(0.08, 0.24, 0.68)
    mark = dice.integer(2)
    glyph = (abs(u) < 0.13) & (abs(high) < 0.45) if mark else (abs(high) < 0.14) & (abs(u) < 0.5)
    if sign.style == 0:
        plate, rim, face, edge = (r := u * u + high * high) < 0.95, r > 0.55, white, red
    elif sign.style == 1:
        plate, face, edge = (abs(u) < (1 - high) / 2) & (high > -0.9), white, red
        rim, glyph = (abs(u) > (0.45 - high) / 2) | (high < -0.6), (abs(u) < 0.1) & (high < 0.1) & (high > -0.5)
    elif sign.style == 2:
        plate, rim, face, edge = square, side > 0.84, blue, white
    elif sign.style == 3:
        plate, rim, face, edge = square & (abs(u) + abs(high) < 1.36), abs(u) + abs(high) > 1.25, red, white
    else:
        plate, rim, face, edge = (t := abs(u) + abs(high)) < 0.98, t > 0.72, rgb(0.96, 0.76, 0.1), white
    colour = rgb(0.46, 0.47, 0.49) + np.zeros((3, *inside.shape))
    np.copyto(colour, face, where=plate)
    np.copyto(colour, white if sign.style > 1 else rgb(0.08, 0.08, 0.1), where=plate & glyph)
    np.copyto(colour, edge, where=plate & rim)
    canvas.paint(window, inside & (plate | pole), colour, SIGN, sign.z, number)


def _tree(canvas: Canvas, dice: Dice, tree: Thing, number: int) -> None:
    width, height = ((3.2, 6.5), (4.6, 6.0), (1.9, 8.0), (3.4, 5.6), (2.2, 1.5))[tree.style]
    width, height = width * dice.uniform(0.85, 1.25), height * dice.uniform(0.8, 1.25)
    card = canvas.card(tree.x, tree.z, width, height)
    if card is None:
        return
    window, u, v, inside = card
    rough = noise(u * 4 * (width / 4) + 9, v * 6 * (height / 6) + 9, dice.seed())
    light = dice.sign() * 0.15
    leaf = rgb(0.15, 0.34, 0.11) + rgb(0.16, 0.14, 0.06) * dice.uniform()
    bark = rgb(0.30, 0.22, 0.15)
    if tree.style == 0:
        tier = v * 7 - np.floor(v * 7)
        crown = (v > 0.14) & (abs(u) < (1.03 - v) * (0.78 + 0.22 * (1 - tier)) + 0.16 * (rough - 0.5))
        leaf = rgb(0.09, 0.26, 0.14) + rgb(0.05, 0.08, 0.05) * dice.uniform()
    elif tree.style == 4:
        crown = u * u + v * v < 0.72 + 0.5 * (rough - 0.5)
    else:
        middle, spread = ((0.0, 1.0), (0.62, 0.38), (0.55, 0.45), (0.62, 0.38))[tree.style]
        w = (v - middle) / spread
        crown = u * u + w * w < 0.74 + 0.95 * (rough - 0.5)
    if tree.style == 3:
        leaf, bark = leaf + rgb(0.2, 0.12, 0.02) * dice.uniform(), rgb(0.78, 0.77, 0.73)
    trunk = (abs(u) * width < 0.16 + 0.14 * (1 - v)) & (v < 0.55) & (tree.style != 4)
    shade = 0.42 + 0.75 * rough + 0.25 * v + light * u
    if tree.snow:
        leaf = np.where(rough + 0.35 * v > 0.72, rgb(0.86, 0.88, 0.92), leaf)
    colour = np.where(crown, leaf * shade, bark * (0.75 + 0.5 * rough))
    canvas.paint(window, inside & (crown | trunk), colour, TREE, tree.z, number)


_PAINTERS: dict[int, Callable[[Canvas, Dice, Thing, int], None]] = {
    CAR: _car,
    PERSON: _person,
    SIGN: _sign,
    TREE: _tree,
}
