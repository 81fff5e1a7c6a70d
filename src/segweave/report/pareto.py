"""Gain against cost as inline SVG, with the networks that no other beats in both."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segweave.report.chart import Frame
from segweave.report.html import Html, escape, join, number, paragraph, tag

_SIZE = 360, 270
_RADIUS, _CAP, _APART, _LINE = 4.5, 3.0, 8.0, 12.0
_LETTERS, _NARROW, _WIDE = 20, 5.9, 11.0
"""Of a label at most, and the width of one letter."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Spot:
    """A network in the chart.

    Args:
        cost: above 0, lower is better.
        gain: in per cent, higher is better.
        low, high: interval of the gain; nan where there is none.
        colour: of the page's.
    """

    name: str
    cost: float
    gain: float
    low: float
    high: float
    colour: str


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (cost, gain) that no other beats, the cheapest first.

    One beats another that costs no less and gains no more, unless the two are equal.
    """
    found: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not found or points[place][1] > points[found[-1]][1] or points[place] == points[found[-1]]:
            found.append(place)
    return found


def cost_axis(costs: Sequence[Mapping[str, float]]) -> tuple[str, str, float]:
    """What costs are compared by: its name, its key and its unit; latency, or parameters where one has no latency."""
    if any(math.isnan(cost["milliseconds"]) for cost in costs):
        return "parameters in millions", "parameters", 1e6
    return "latency of one image in ms", "milliseconds", 1.0


def pareto_chart(title: str, axis: str, spots: Sequence[Spot]) -> Html:
    """The spots with their intervals and names, and a line of steps through those that no other beats.

    Args:
        title: of the gain.
        axis: of the cost, in words.
        spots: at least one.
    """
    values = [value for spot in spots for value in (spot.gain, spot.low, spot.high) if math.isfinite(value)]
    # room to the right for all of them side by side
    room = min(0.5, max(0.13, len(spots) * _APART / (_SIZE[0] - 60)))
    costs = [0.0, max(spot.cost for spot in spots) / (1 - room)]
    frame = Frame(costs, values, zero=True, whole=False, size=_SIZE)
    best = front([(spot.cost, spot.gain) for spot in spots])
    places = _places(frame, spots)
    drawn = [_steps([places[place] for place in best])]
    drawn += [_spot(frame, spot, x, n in best) for n, (spot, (x, _)) in enumerate(zip(spots, places, strict=True))]
    drawn += _names(frame, spots, places)
    names = ", ".join(spots[place].name for place in best)
    words = "; ".join(f"{spot.name}: {axis} {number(spot.cost, 3)}, {_gain(spot)}" for spot in spots)
    label = f"{title} against {axis}. {words}. Beaten by no other: {names}."
    picture = tag(
        "svg", join([frame.axes(), *drawn]), viewBox=f"0 0 {_SIZE[0]} {_SIZE[1]}", role="img", aria_label=label
    )
    caption = tag("figcaption", tag("b", title))
    below = join([tag("p", f"{axis} →", class_="axis-name"), paragraph(f"Beaten by no other: {names}.", soft=True)])
    return tag("figure", join([caption, picture, below]), class_="chart pareto")


def _gain(spot: Spot) -> str:
    return f"{spot.gain:+z.1f} %" + (f" ({spot.low:+z.1f} to {spot.high:+z.1f} %)" if math.isfinite(spot.low) else "")


def _places(frame: Frame, spots: Sequence[Spot]) -> list[tuple[float, float]]:
    """Where the spots are drawn: those of nearly one cost side by side, the best one where it belongs."""
    places = [(0.0, 0.0)] * len(spots)
    last = -math.inf
    for place in sorted(range(len(spots)), key=lambda place: (spots[place].cost, -spots[place].gain)):
        last = max(frame.x(spots[place].cost), last + _APART)
        places[place] = last, frame.y(spots[place].gain)
    return places


def _steps(places: Sequence[tuple[float, float]]) -> Html:
    (x, y), *others = places
    path = f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in others)
    return tag("path", d=path, class_="front")


def _spot(frame: Frame, spot: Spot, x: float, best: bool) -> Html:
    """A disc where no other beats it, a ring where one does, with its interval."""
    stroke, interval = f"stroke:var(--{spot.colour})", Html()
    if math.isfinite(spot.low):
        low, high = frame.y(spot.low), frame.y(spot.high)
        ends = "".join(f"M{x - _CAP:.1f} {y:.1f}h{2 * _CAP:.0f}" for y in (low, high))
        interval = tag("path", d=f"M{x:.1f} {low:.1f}V{high:.1f}{ends}", class_="interval", style=stroke)
    fill = spot.colour if best else "panel"
    disc = tag(
        "circle", cx=f"{x:.1f}", cy=f"{frame.y(spot.gain):.1f}", r=str(_RADIUS), style=f"fill:var(--{fill});{stroke}"
    )
    return tag("g", join([tag("title", f"{spot.name}: {_gain(spot)}"), interval, disc]))


def _names(frame: Frame, spots: Sequence[Spot], places: Sequence[tuple[float, float]]) -> list[Html]:
    """Each name where it covers least, with a thin line to its spot where that is not beside it."""
    taken = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in places]
    for spot, (x, _) in zip(spots, places, strict=True):
        if math.isfinite(spot.low):
            taken.append((x - 2, frame.y(spot.high), x + 2, frame.y(spot.low)))
    drawn = []
    for spot, (x, y) in zip(spots, places, strict=True):
        name = spot.name if len(spot.name) <= _LETTERS else f"{spot.name[: _LETTERS - 1]}…"
        width = sum(_WIDE if unicodedata.east_asian_width(letter) in "WF" else _NARROW for letter in name)
        choices = [
            (side, left, y + _LINE * step / 2)
            for step in sorted(range(-24, 25), key=abs)
            for side, left in (("start", x + 9), ("end", x - 9 - width))
        ]
        boxes = [(left, middle - _LINE / 2, left + width, middle + _LINE / 2) for _, left, middle in choices]
        # as much as a letter's overlap counts for more than the way to the other end of the chart
        costs = [_covered(box, taken) + abs(box[1] + _LINE / 2 - y) for box in boxes]
        place = costs.index(min(costs))
        (side, left, middle), box = choices[place], boxes[place]
        taken.append(box)
        edge = left - 2 if side == "start" else left + width + 2
        if abs(middle - y) > _LINE / 2:
            drawn.append(tag("path", d=f"M{x:.1f} {y:.1f}L{edge:.1f} {middle:.1f}", class_="lead-line"))
        text_x = left if side == "start" else left + width
        drawn.append(tag("text", name, x=f"{text_x:.1f}", y=f"{middle + 4:.1f}", text_anchor=side, class_="name"))
    return [escape(part) for part in drawn]


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Square pixels of a box that others take, or that lie outside of the chart."""
    left, top, right, bottom = box
    inside = _overlap(box, (0.0, 0.0, float(_SIZE[0]), _SIZE[1] - 26.0))
    return (right - left) * (bottom - top) - inside + sum(_overlap(box, other) for other in taken)


def _overlap(one: Box, other: Box) -> float:
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
