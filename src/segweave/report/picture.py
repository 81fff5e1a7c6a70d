"""One composed picture of an image and what every task says of it, with legends."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_MARGIN, _LINE, _SIZE, _BOX = 14, 20, 14, 13
_AREA, _SHEET = 420 * 315, 880
_NARROWEST, _TALLEST = 260, 640
_ENTRIES = 64
_INK, _FAINT = (20, 20, 20), (110, 110, 110)
# Pillow brings one font, without even the letter ä; these hold most alphabets, and one of them is on most machines.
_FONTS = (
    *(
        "DejaVuSans.ttf",
        "NotoSans-Regular.ttf",
        "LiberationSans-Regular.ttf",
        "Arial.ttf",
        "arial.ttf",
        "Helvetica.ttc",
    ),
    *("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf", "arialuni.ttf"),
)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Panel:
    """A picture with its title, and below it coloured names, a colour bar with its ends, or lines of text."""

    title: str
    picture: UInt8[Tensor, "3 H W"]
    entries: Sequence[tuple[str, tuple[int, int, int]]] = ()
    bar: tuple[float, float, str] | None = None
    ramp: Sequence[tuple[int, int, int]] = ()
    text: str = ""


def compose(panels: Sequence[Panel]) -> UInt8[Tensor, "3 H W"]:
    """Panels side by side where they fit, all pictures at one size that keeps the first one's proportions.

    Wide pictures come one below the other, tall ones in more columns; small ones are enlarged to be seen.
    """
    height, width = panels[0].picture.shape[-2:]
    across = min(max((_AREA * width / height) ** 0.5, _NARROWEST * min(1.0, width / height)), _SHEET)
    size = max(1, round(across)), min(max(8, round(across * height / width)), _TALLEST)
    if size[1] == _TALLEST:
        size = max(8, round(_TALLEST * width / height)), _TALLEST
    cell_width = max(size[0], _NARROWEST)
    cells = [_cell(panel, size, cell_width) for panel in panels]
    columns = max(1, min(len(cells), (_SHEET + _MARGIN) // (cell_width + _MARGIN)))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    total = _MARGIN + columns * (cell_width + _MARGIN), _MARGIN + sum(height + _MARGIN for height in heights)
    sheet = Image.new("RGB", total, "white")
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_MARGIN + column * (cell_width + _MARGIN), top))
        top += height + _MARGIN
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).contiguous()


def _cell(panel: Panel, size: tuple[int, int], width: int) -> Image.Image:
    picture = Image.fromarray(panel.picture.permute(1, 2, 0).contiguous().numpy())
    # so large an enlargement shows pixels, which blurring would only hide
    pixels = size[0] >= 4 * picture.width
    picture = picture.resize(size, Image.Resampling.NEAREST if pixels else Image.Resampling.LANCZOS)
    below = _below(panel, width)
    cell = Image.new("RGB", (width, _LINE + size[1] + (below.height + 6 if below else 0)), "white")
    _write(ImageDraw.Draw(cell), (0, 0), panel.title, width, keep_end=True)
    cell.paste(picture, (0, _LINE))
    if below:
        cell.paste(below, (0, _LINE + size[1] + 6))
    return cell


def _below(panel: Panel, width: int) -> Image.Image | None:
    """The legend of a panel; None where it has none."""
    if panel.bar is not None:
        return _bar(panel.bar, panel.ramp, width)
    entries = list(panel.entries[:_ENTRIES])
    places, line = _flow([_BOX + 5 + _length(name) for name, _ in entries], width)
    lines = [*_wrap(panel.text, width)]
    if len(panel.entries) > _ENTRIES:
        lines.append(f"and {len(panel.entries) - _ENTRIES} more")
    if not entries and not lines:
        return None
    image = Image.new("RGB", (width, _LINE * (line + len(lines))), "white")
    draw = ImageDraw.Draw(image)
    for (name, colour), (left, row) in zip(entries, places, strict=True):
        top = row * _LINE + 2
        draw.rectangle((left, top, left + _BOX - 1, top + _BOX - 1), tuple(colour), _FAINT)
        _write(draw, (left + _BOX + 5, row * _LINE), name, width - left - _BOX - 5)
    for number, text in enumerate(lines, line):
        _write(draw, (0, number * _LINE), text, width)
    return image


def _bar(bar: tuple[float, float, str], ramp: Sequence[tuple[int, int, int]], width: int) -> Image.Image:
    """The colours from low to high in logarithmic steps, with the ends and the geometric middle below them."""
    low, high, unit = bar
    steps = np.linspace(0, len(ramp) - 1, width)
    channels = [np.interp(steps, np.arange(len(ramp)), [colour[k] for colour in ramp]) for k in range(3)]
    strip = np.broadcast_to(np.stack(channels, -1).round().astype(np.uint8), (_BOX, width, 3))
    image = Image.new("RGB", (width, _BOX + 3 + _LINE), "white")
    image.paste(Image.fromarray(strip.copy()), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width - 1, _BOX - 1), outline=_FAINT)
    middle = (max(low, 1e-9) * high) ** 0.5
    for share, value in ((0.0, low), (0.5, middle), (1.0, high)):
        text = f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
        left = round(share * (width - _length(text)))
        _write(draw, (left, _BOX + 3), text, width)
    return image


def _flow(lengths: Sequence[int], width: int) -> tuple[list[tuple[int, int]], int]:
    """Left edge and line of each legend entry in order, and the number of lines."""
    left, line, places = 0, 0, []
    for length in lengths:
        if left and left + length > width:
            left, line = 0, line + 1
        places.append((left, line))
        left += length + _MARGIN
    return places, line + 1 if lengths else 0


def _wrap(text: str, width: int) -> list[str]:
    """Lines that break behind commas, or between words where there are none; lines of the text's own are kept."""
    lines: list[str] = []
    for paragraph in filter(None, text.split("\n")):
        line = ""
        for word in re.split("(?<=,) " if ", " in paragraph else " ", paragraph):
            if line and _length(f"{line} {word}") > width:
                lines.append(line)
                line = f"  {word}"
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, keep_end: bool = False) -> None:
    """One line of text, shortened by `...` to the width."""
    font, text = _readable(text)
    while len(text) > 4 and font.getlength(text) > width:
        bare = text.removeprefix("...") if keep_end else text.removesuffix("...")
        text = f"...{bare[1:]}" if keep_end else f"{bare[:-1]}..."
    draw.text(place, text, _INK, font)


def _length(text: str) -> int:
    font, text = _readable(text)
    return int(font.getlength(text)) + 1


def _readable(text: str) -> tuple[Font, str]:
    """A font that has all letters of a text, and the text; without such a font, with plain letters instead."""
    text = "".join(" " if unicodedata.category(c).startswith("C") else c for c in text)
    for font in _fonts():
        missing = bytes(font.getmask("\U0010fffe"))  # pyright: ignore[reportArgumentType]
        letters = {c for c in text if not c.isspace() and not unicodedata.combining(c)}
        if all(c.isascii() or bytes(font.getmask(c)) != missing for c in letters):  # pyright: ignore[reportArgumentType]
            return font, text
    plain = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _fonts()[-1], "".join(c if c.isascii() else "?" for c in plain)


@cache
def _fonts() -> list[Font]:
    found: list[Font] = []
    for name in _FONTS:
        try:
            found.append(ImageFont.truetype(name, _SIZE))
        except OSError:
            continue
    return [*found, ImageFont.load_default(_SIZE)]
