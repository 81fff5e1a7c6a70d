"""Pages in one look: self-contained documents, and the tables, lists and pictures they are made of.

Every function takes plain values and escapes them; only an `Html` goes in as it is, and every function returns one.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from segweave.report.style import SCRIPT, SHEET

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | float | int | None
"""What may stand in a cell or a list: text, a number, markup as `Html`, or None where there is no value."""


def escape(value: Content) -> Html:
    """A value as markup: text escaped, control characters as blanks, numbers by `number`."""
    if isinstance(value, Html):
        return value
    if value is None or isinstance(value, int | float):
        return Html(number(value))
    return Html(html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", " ", value)))


def number(value: float | None, digits: int = 4) -> str:
    """A number for people: whole ones in groups of three, others to `digits`; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if math.isinf(value) or value == 0:
        return f"{value:g}"
    if abs(value) >= 10**digits or abs(value) < 1e-3:
        return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{max(0, digits - max(0, math.floor(math.log10(abs(value))) + 1))}f}"


def quantity(value: float, unit: str = "") -> str:
    """Three digits with the prefix that keeps them short: 1 234 567 with "MAC" is `1.23 MMAC`."""
    if math.isnan(value):
        return "–"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:#.3g}".removesuffix(".") + f" {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def arrow(higher_is_better: bool) -> str:
    """What stands behind a metric's name."""
    return "↑" if higher_is_better else "↓"


def join(parts: Iterable[Content], between: str = "") -> Html:
    """Parts one after the other."""
    return Html(between.join(escape(part) for part in parts))


def tag(element: str, content: Content = "", /, **attributes: str | int | bool | None) -> Html:
    """`<element attribute="value">content</element>`.

    `class_` is class and `aria_label` aria-label; an attribute that is None or False is left out, True has no value.
    """
    shown = ""
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            shown += f" {key}" if value is True else f' {key}="{escape(str(value))}"'
    opened = f"<{element}{shown}>"
    return Html(opened if element in ("img", "input") else f"{opened}{escape(content)}</{element}>")


def document(title: str, body: Html, lead: Content = "", sections: Mapping[str, str] | None = None) -> str:
    """A whole page.

    Args:
        title: of the window and the page's heading.
        body: mostly `section`s.
        lead: a line below the heading.
        sections: headings by id, for the list of links at the top.
    """
    links = join(tag("li", tag("a", name, href=f"#{id}")) for id, name in (sections or {}).items())
    nav = tag("nav", tag("ul", links), aria_label="Sections") if sections else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<link rel="icon" href="data:,"><style>{SHEET}</style></head><body>'
        f'<a class="skip" href="#content">Skip to the content</a><header><div class="top"><div>'
        f"<h1>{escape(title)}</h1>{tag('p', lead, class_='lead') if lead else ''}</div>"
        f'<button id="theme" type="button" hidden></button></div>{escape(nav)}</header>'
        f'<main id="content" tabindex="-1">{body}</main><footer>Written by segweave.</footer>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def section(id: str, title: str, *parts: Content) -> Html:
    """A part of a page with its heading, which `#id` leads to."""
    return tag("section", join([tag("h2", title, id=f"{id}-title"), *parts]), id=id, aria_labelledby=f"{id}-title")


def paragraph(*parts: Content, soft: bool = False) -> Html:
    return tag("p", join(parts), class_="soft" if soft else None)


def notes(items: Sequence[Content]) -> Html:
    """Remarks that a reader must not miss; nothing where there are none."""
    return tag("ul", join(tag("li", item) for item in items), class_="note") if items else Html()


def table(
    columns: Sequence[Content], rows: Iterable[Sequence[Content]], caption: Content, numeric: Iterable[int] = ()
) -> Html:
    """A table that scrolls by itself where it is wide; the first cell of a row is its heading.

    Args:
        numeric: positions of columns that stand to the right; those of numbers do anyway.
    """
    rows = [list(row) for row in rows]
    right = set(numeric)
    for place in range(1, len(columns)):
        cells = [row[place] for row in rows if len(row) > place]
        if cells and all(cell is None or isinstance(cell, int | float) for cell in cells):
            right.add(place)

    def cell(place: int, content: Content) -> Html:
        kind = "number" if place in right else None
        return tag("th", content, scope="row") if place == 0 else tag("td", content, class_=kind)

    head = join(
        tag("th", name, scope="col", class_="number" if place in right else None) for place, name in enumerate(columns)
    )
    body = join(tag("tr", join(cell(place, content) for place, content in enumerate(row))) for row in rows)
    return captioned(join([tag("thead", tag("tr", head)), tag("tbody", body)]), caption)


def captioned(content: Html, caption: Content, class_: str = "") -> Html:
    """The inside of a table in a box that scrolls sideways, also by keyboard, below a caption that does not."""
    words = html.unescape(re.sub("<[^>]*>", "", escape(caption)))
    # the caption that is seen would move with a wide table, so that one stands above it and one is for readers aloud
    whole = tag("table", join([tag("caption", words, class_="hide"), content]))
    box = tag("div", whole, class_=f"scroll {class_}".strip(), role="region", aria_label=words, tabindex=0)
    return tag("div", join([tag("p", caption, class_="caption", aria_hidden="true"), box]), class_="captioned")


def bar(share: float, text: Content, second: bool = False) -> Html:
    """A bar of a share from 0 to 1, and beside it what it says."""
    length = tag("i", style=f"--share:{100 * min(1.0, max(0.0, share)):.1f}%", aria_hidden="true")
    return tag("span", join([length, tag("span", text)]), class_="bar second" if second else "bar")


def facts(pairs: Mapping[str, Content]) -> Html:
    """Names and what they are."""
    return tag("dl", join(join([tag("dt", k), tag("dd", v)]) for k, v in pairs.items()), class_="facts")


def code(text: str, label: str) -> Html:
    """Lines of code or configuration."""
    return tag("pre", tag("code", text), tabindex=0, role="region", aria_label=label)


def details(summary: Content, content: Html) -> Html:
    """What is shown when asked for."""
    return tag("details", join([tag("summary", summary), content]))


def key(entries: Iterable[tuple[str, Sequence[int]]], class_: str = "key") -> Html:
    """Coloured boxes with names."""
    items = (
        join([tag("i", style=f"background:rgb({','.join(map(str, colour))})", aria_hidden="true"), tag("span", name)])
        for name, colour in entries
    )
    return tag("ul", join(tag("li", item) for item in items), class_=class_)


def ramp(low: float, high: float, unit: str, colours: Sequence[Sequence[int]]) -> Html:
    """A bar of colours with its ends and middle; the middle is geometric where `low` is above 0, as the colours are."""
    middle = (low * high) ** 0.5 if low > 0 else (low + high) / 2
    stops = ",".join(f"rgb({','.join(map(str, colour))})" for colour in colours)
    strip = tag("i", style=f"background:linear-gradient(90deg,{stops})", aria_hidden="true")
    ends = [f"{low:.3g}", f"{middle:.3g}", f"{high:.3g} {unit}"]
    return tag("div", join([strip, *(tag("span", end) for end in ends)]), class_="ramp")


def in_words(entries: Sequence[tuple[str, Sequence[int]]], bar: tuple[float, float, str] | None) -> str:
    """A picture's legend for its `alt`, such as ` (0.5 to 8 m; road, sky)`; at most twelve names, empty without any."""
    span = f"{bar[0]:.3g} to {bar[1]:.3g} {bar[2]}" if bar else ""
    words = "; ".join(filter(None, (span, ", ".join(name for name, _ in entries[:12]))))
    return f" ({words})" if words else ""


def image(picture: UInt8[Tensor, "3 H W"], alt: str, most: int = 60_000, side: int = 640) -> Html:
    """A picture inside the page.

    Args:
        alt: what it shows, in words.
        most: bytes that it may take in the page.
        side: pixels of its longer side at most; fewer where `most` asks for it.
    """
    uri, width, height = data_uri(picture, most, side)
    return tag("img", src=uri, alt=alt, width=width, height=height)


def data_uri(picture: UInt8[Tensor, "3 H W"], most: int, side: int) -> tuple[str, int, int]:
    """A picture as a WebP `data:` address of at most `most` characters where 32 pixels fit in it, width and height."""
    whole = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    side = min(side, max(whole.size))
    while True:
        scale = side / max(whole.size)
        size = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
        shown = whole if size == whole.size else whole.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
        for quality in (84, 60):
            file = io.BytesIO()
            shown.save(file, "WEBP", quality=quality, method=4)
            uri = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
            if len(uri) <= most or (quality == 60 and side <= 32):
                return uri, *size
        side = max(32, int(side * min(0.85, (most / len(uri)) ** 0.5)))
