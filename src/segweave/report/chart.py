"""Line charts as inline SVG in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from segweave.report.history import Point, log_scale, smoothed, thinned, ticks
from segweave.report.html import Html, arrow, escape, join, number, tag
from segweave.report.style import SERIES

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 24
POINTS = 240
"""Of a line at most; a page with very many charts takes fewer."""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        points: (step, value), finite, in the order of their steps; without any, only its colour is taken.
        each: fainter lines of the same colour behind it.
    """

    name: str
    points: Sequence[Point]
    each: Sequence[Sequence[Point]] = ()


class Frame:
    """Where values lie in a chart.

    Args:
        steps, values: that have a place in it.
        log: a logarithmic scale, where the values ask for one.
        zero: 0 is among the values.
        whole: only whole steps have a tick.
        size: width and height.
    """

    def __init__(
        self,
        steps: Sequence[float],
        values: Sequence[float],
        log: bool = False,
        zero: bool = False,
        whole: bool = True,
        size: tuple[int, int] = (_WIDTH, _HEIGHT),
    ) -> None:
        self.width, self.height, self.whole = *size, whole
        self.log = log and log_scale(values)
        self.first, self.last = min(steps), max(steps)
        low, high = min(values), max(values)
        if self.log:
            self.low, self.high = low / 1.15, high * 1.15
        else:
            low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
            room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
            # nothing below 0 is shown of values that cannot go there
            self.low = low - room if low < 0 else max(0.0, low - room)
            self.high = high + room

    def x(self, step: float) -> float:
        share = (step - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return _LEFT + share * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)

    def axes(self) -> Html:
        parts = []
        values = ticks(self.low, self.high, self.log)
        for value, name in zip(values, labels(values), strict=True):
            y = f"{self.y(value):.1f}"
            parts.append(tag("path", d=f"M{_LEFT} {y}H{self.width - _RIGHT}", class_="grid"))
            parts.append(tag("text", name, x=_LEFT - 6, y=f"{float(y) + 4:.1f}", text_anchor="end"))
        steps = [step for step in ticks(self.first, self.last, most=4) if step == int(step) or not self.whole]
        for step, name in zip(steps, labels(steps), strict=True):
            x = self.x(step)
            edge = "end" if x > self.width - 30 else "middle"
            parts.append(tag("text", name, x=f"{x:.1f}", y=self.height - 7, text_anchor=edge))
        base = self.height - _BOTTOM
        parts.append(tag("path", d=f"M{_LEFT} {base}H{self.width - _RIGHT}", class_="axis"))
        if not self.log and self.low < 0 < self.high:
            parts.append(tag("path", d=f"M{_LEFT} {self.y(0.0):.1f}H{self.width - _RIGHT}", class_="axis"))
        return join(parts)

    def path(self, points: Sequence[Point], colour: str, class_: str | None = None, dashed: bool = False) -> Html:
        places = "L".join(f"{self.x(step):.1f} {self.y(value):.1f}" for step, value in points)
        dashes = "7 6" if dashed else None
        return tag("path", d=f"M{places}", class_=class_, style=f"stroke:var(--{colour})", stroke_dasharray=dashes)

    def dots(self, points: Sequence[Point], colour: str, radius: float) -> Html:
        shown = (
            tag(
                "circle",
                tag("title", f"step {number(int(step))}: {number(value)}"),
                cx=f"{self.x(step):.1f}",
                cy=f"{self.y(value):.1f}",
                r=str(radius),
                style=f"fill:var(--{colour})",
            )
            for step, value in points
        )
        return join(shown)


def training_chart(title: str, points: Sequence[Point], most: int = POINTS, exact: bool = False) -> Html:
    """A value of every step: faint as it was, and its running mean over about a twentieth of the steps.

    Args:
        most: points of each line.
        exact: leaves out the mean, for what has no noise.
    """
    means = list(points) if exact else smoothed(points)
    # single outliers must not flatten everything else
    ordered = sorted(value for _, value in points)
    cut = len(ordered) // 100
    frame = Frame([step for step, _ in points], ordered[cut : len(ordered) - cut], log=not exact)
    drawn = join(
        [
            "" if exact else frame.path(thinned(points, most), "series1", "raw"),
            frame.path(thinned(means, most), "series1"),
            frame.dots(points, "series1", 3) if len(points) == 1 else "",
        ]
    )
    words = f"{_from_to(points, means)} At the end {number(means[-1][1])}."
    return _chart(title, f"last {number(means[-1][1])}", frame, drawn, words)


def validation_chart(title: str, points: Sequence[Point], higher_is_better: bool, most: int = POINTS) -> Html:
    """A metric at each validation, with the best of them marked."""
    best = (max if higher_is_better else min)(points, key=lambda point: point[1])
    frame = Frame([step for step, _ in points], [value for _, value in points])
    drawn = [frame.path(thinned(points, most), "series1")]
    if len(points) <= 40:
        drawn.append(frame.dots(points, "series1", 2.5))
    drawn.append(frame.dots([best], "series2", 4.5))
    words = f"{_from_to(points, points)} Best {number(best[1])} at step {number(int(best[0]))}."
    return _chart(f"{title} {arrow(higher_is_better)}", f"best {number(best[1])}", frame, join(drawn), words)


def lines_chart(
    title: str,
    lines: Sequence[Line],
    zero: bool = False,
    most: int = POINTS,
    exact: bool = False,
    by: str = "step",
) -> Html:
    """Several values of every step in one frame, each by its running mean, with their names and last values below.

    Args:
        zero: 0 is in the frame, so that heights can be compared.
        most: points of each line.
        exact: the points themselves in place of their running mean.
        by: what stands on the horizontal axis.
    """
    means = [list(line.points) if exact else smoothed(line.points) for line in lines]
    everything = [point for line, points in zip(lines, means, strict=True) for point in chain(points, *line.each)]
    frame = Frame([step for step, _ in everything], [value for _, value in everything], zero=zero)
    drawn, entries, words = [], [], []
    for place, (line, points) in enumerate(zip(lines, means, strict=True)):
        if not points:
            continue
        # every other line is dashed, so that equal ones are seen through each other
        colour, dashed = f"series{place % SERIES + 1}", place % 2 == 1
        drawn += [frame.path(thinned(one, most), colour, "raw") for one in line.each]
        drawn.append(frame.path(thinned(points, most), colour, dashed=dashed))
        drawn.append(frame.dots(points, colour, 3) if len(points) == 1 else "")
        look = "line dashed" if dashed else "line"
        line_key = tag("i", class_=look, style=f"background:var(--{colour})", aria_hidden="true")
        name = f"{line.name} {number(points[-1][1])}"
        entries.append(tag("li", join([line_key, tag("span", name)])))
        words.append(f"{line.name} from {number(points[0][1])} to {number(points[-1][1])}")
    key = tag("ul", join(entries), class_="key")
    return _chart(title, "", frame, join(drawn), "; ".join(words) + ".", key, by)


def labels(values: Sequence[float]) -> list[str]:
    """The numbers of ticks, as short as says what they are."""
    digits = 0
    while digits < 5 and any(abs(float(f"{value:.{digits}e}") - value) > 1e-6 * abs(value) for value in values):
        digits += 1
    return [_label(value, digits) for value in values]


def _label(value: float, digits: int) -> str:
    if value and (abs(value) < 1e-4 or abs(value) >= 1e6):
        mantissa, _, power = f"{value:.{digits}e}".partition("e")
        return f"{mantissa}e{int(power)}"
    if abs(value) >= 1000 and value == int(value):
        return f"{int(value) // 1000}k" if value % 1000 == 0 else number(int(value))
    return f"{value:.6g}"


def _from_to(points: Sequence[Point], means: Sequence[Point]) -> str:
    (first, _), (last, _) = points[0], points[-1]
    low, high = min(value for _, value in points), max(value for _, value in points)
    return (
        f"From {number(means[0][1])} at step {number(int(first))} to {number(means[-1][1])} at step "
        f"{number(int(last))}, between {number(low)} and {number(high)}."
    )


def _chart(
    title: str, value: str, frame: Frame, drawn: Html, words: str, below: Html | None = None, by: str = "step"
) -> Html:
    scale = " Logarithmic scale." if frame.log else ""
    picture = tag(
        "svg",
        join([frame.axes(), drawn]),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title} by {by}. {words}{scale}",
    )
    caption = join([tag("b", title), tag("span", " · ".join(filter(None, [value, "log scale" if frame.log else ""])))])
    return tag("figure", join([tag("figcaption", caption), picture, escape(below or Html())]), class_="chart")
