"""One composed picture of an image and what every task says of it, with legends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_MARGIN, _LINE = 12, 20


@dataclass(frozen=True)
class Panel:
    """A picture with its title, and below it coloured names, a colour bar with its ends, or a line of text."""

    title: str
    picture: UInt8[Tensor, "3 H W"]
    entries: Sequence[tuple[str, tuple[int, int, int]]] = ()
    bar: tuple[float, float, str] | None = None
    ramp: Sequence[tuple[int, int, int]] = ()
    text: str = ""


def compose(panels: Sequence[Panel], width: int = 420) -> UInt8[Tensor, "3 H W"]:
    """Panels side by side, two in a row, every picture `width` pixels wide."""
    font = ImageFont.load_default(14)
    cells = [_cell(panel, width, font) for panel in panels]
    columns = min(2, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new(
        "RGB", (_MARGIN + columns * (width + _MARGIN), _MARGIN + sum(h + _MARGIN for h in heights)), "white"
    )
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_MARGIN + column * (width + _MARGIN), top))
        top += height + _MARGIN
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).contiguous()


def _cell(panel: Panel, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    picture = Image.fromarray(panel.picture.permute(1, 2, 0).numpy())
    picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)
    places, lines = _flow(panel, width, font)
    cell = Image.new("RGB", (width, picture.height + _LINE * (1 + lines)), "white")
    draw = ImageDraw.Draw(cell)
    draw.text((0, 0), panel.title, "black", font)
    cell.paste(picture, (0, _LINE))
    below = picture.height + _LINE + 4
    for (name, colour), (left, line) in zip(panel.entries, places, strict=True):
        top = below + line * _LINE
        draw.rectangle((left, top, left + 12, top + 12), tuple(colour), "black")
        draw.text((left + 17, top - 2), name, "black", font)
    if panel.bar is not None:
        low, high, unit = panel.bar
        samples = np.linspace(0, len(panel.ramp) - 1, 200)
        channels = [np.interp(samples, np.arange(len(panel.ramp)), [c[k] for c in panel.ramp]) for k in range(3)]
        strip = np.broadcast_to(np.stack(channels, -1).round().astype(np.uint8), (12, 200, 3))
        cell.paste(Image.fromarray(strip.copy()), (60, below))
        draw.text((0, below - 2), f"{low:.1f} {unit}", "black", font)
        draw.text((266, below - 2), f"{high:.1f} {unit} (log scale)", "black", font)
    if panel.text:
        draw.text((0, below - 2), panel.text, "black", font)
    return cell


def _flow(
    panel: Panel, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> tuple[list[tuple[int, int]], int]:
    """Left edge and line of each legend entry, and how many lines the cell has below its picture."""
    left, line, places = 0, 0, []
    for name, _ in panel.entries:
        needed = 17 + int(font.getlength(name)) + 14
        if left and left + needed > width:
            left, line = 0, line + 1
        places.append((left, line))
        left += needed
    return places, line + 1 if panel.entries or panel.bar or panel.text else 0
