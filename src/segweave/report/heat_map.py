"""A number for every two tasks, as a table in the colours of for and against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segweave.report.html import Html, captioned, join, tag


@dataclass(frozen=True)
class Cell:
    """A number of the table.

    Args:
        text: the number.
        shade: of its colour: -1 is fully against, 1 fully for; nan for none.
        title: what it says, in words.
    """

    text: str
    shade: float
    title: str


def heat_map(names: Sequence[str], cells: Sequence[Sequence[Cell | None]], caption: str) -> Html:
    """A square table with the same names at its rows and columns; None is the cell of a task and itself."""
    head = join(tag("th", tag("span", name), scope="col", class_="up") for name in names)
    rows = [
        tag("tr", join([tag("th", name, scope="row", title=name), *map(_cell, row)]))
        for name, row in zip(names, cells, strict=True)
    ]
    body = join([tag("thead", tag("tr", join([tag("td"), head]))), tag("tbody", join(rows))])
    return captioned(body, caption, "matrix agreement")


def _cell(cell: Cell | None) -> Html:
    if cell is None:
        return tag("td", class_="own")
    if math.isnan(cell.shade):
        return tag("td", cell.text, title=cell.title)
    style, class_ = f"--p:{100 * abs(cell.shade):.0f}%", "opposed" if cell.shade < 0 else None
    return tag("td", cell.text, style=style, class_=class_, title=cell.title)


def shade(value: float, most: float = 1.0) -> float:
    """Of a number up to `most` in size, by the square root, since most of them are small."""
    return math.copysign(math.sqrt(min(1.0, abs(value) / most)), value) if value else 0.0


def scale(low: str, high: str) -> Html:
    """The colours of `shade`, from the words of -most to those of most."""
    places = (1.0, 0.5625, 0.25, 0.0625, 0.0)
    stops = [
        f"color-mix(in srgb,var(--{colour}) {100 * place**0.5:.0f}%,var(--panel)) {50 + 50 * sign * place:.1f}%"
        for colour, sign, order in (("conflict", -1, places), ("heat", 1, places[::-1]))
        for place in order
    ]
    strip = tag("i", style=f"background:linear-gradient(90deg,{','.join(stops)})", aria_hidden="true")
    return tag("div", join([strip, *(tag("span", end) for end in (low, "0", high))]), class_="ramp")
