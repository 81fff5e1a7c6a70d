"""The page of `segweave check`: the verdict, what was found, the tables, and samples with their labels drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segweave.report import html
from segweave.report.html import Html, join, tag
from segweave.report.picture import Panel

Cell = str | int | float | None
"""What stands in a table; None where there is nothing to say."""

_SIDE, _BYTES = 360, 40_000
_HEADINGS = {"error": "Errors", "warning": "Warnings", "advice": "Good to know"}


@dataclass(frozen=True)
class Sheet:
    """A table of plain values; the first column names the rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def figures(self) -> list[int]:
        """Positions of the columns of numbers and shares, which stand to the right."""
        places = range(1, len(self.columns))
        return [place for place in places if all(_is_figure(row[place]) for row in self.rows)]


def _is_figure(cell: Cell) -> bool:
    return not isinstance(cell, str) or cell.endswith("%")


@dataclass(frozen=True)
class Drawn:
    """An image and its labels, each as a panel; `title` says which image it is."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Remark:
    """Something found: `level` is `error`, `warning` or `advice`; `examples` show it."""

    level: str
    text: str
    examples: Sequence[Drawn] = ()


def check_page(
    name: str, verdict: str, remarks: Sequence[Remark], sheets: Sequence[Sheet], samples: Mapping[str, Sequence[Drawn]]
) -> str:
    """A page that needs no other file.

    Args:
        name: of the data.
        verdict: in one line.
        remarks: in the order in which they are shown within their level.
        sheets: the tables.
        samples: drawn images by split.
    """
    good = not any(remark.level == "error" for remark in remarks)
    parts = [html.paragraph(tag("strong", verdict, class_="good" if good else "bad"))]
    for level, heading in _HEADINGS.items():
        found = [remark for remark in remarks if remark.level == level]
        if found:
            parts += [tag("h3", f"{heading} ({len(found)})"), html.notes([_remark(remark) for remark in found])]
    body = [html.section("found", "What was found", *parts)]
    body.append(html.section("counts", "What the data holds", *map(_table, sheets)))
    headings = {"found": "What was found", "counts": "What the data holds"}
    for number, (split, drawn) in enumerate(samples.items()):
        headings[f"samples{number}"] = f"Samples of {split}"
        body.append(html.section(f"samples{number}", f"Samples of {split}", _examples(drawn)))
    return html.document(f"Check of {name}", join(body), verdict, headings)


def _remark(remark: Remark) -> Html:
    if not remark.examples:
        return html.escape(remark.text)
    return join([remark.text, html.details(f"Show {len(remark.examples)} of them", _examples(remark.examples))])


def _table(sheet: Sheet) -> Html:
    return html.table(sheet.columns, sheet.rows, sheet.caption, sheet.figures)


def _examples(drawn: Sequence[Drawn]) -> Html:
    """Side by side as far as their pictures have the room of a thumbnail."""
    width = 14 * max((len(one.panels) for one in drawn), default=1)
    grid = f"grid-template-columns:repeat(auto-fill,minmax(min({width}rem,100%),1fr))"
    return tag("div", join(_example(one) for one in drawn), class_="examples", style=grid)


def _example(drawn: Drawn) -> Html:
    grid = "grid-template-columns:repeat(auto-fit,minmax(min(9rem,100%),1fr))"
    layers = tag("div", join(_layer(panel, drawn.title) for panel in drawn.panels), class_="layers", style=grid)
    return tag("figure", join([tag("figcaption", drawn.title), layers]), class_="example")


def _layer(panel: Panel, title: str) -> Html:
    alt = f"{title}: {panel.title}{html.in_words(panel.entries, panel.bar)}"
    picture = html.image(panel.picture, alt, _BYTES, _SIDE)
    caption = [tag("figcaption", panel.title), html.key(panel.entries) if panel.entries else None]
    if panel.bar is not None:
        caption.append(html.ramp(*panel.bar, panel.ramp))
    caption.append(html.paragraph(panel.text, soft=True) if panel.text else None)
    return tag("figure", join([picture, *(part for part in caption if part)]), class_="layer")
