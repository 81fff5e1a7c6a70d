"""Boxes drawn over an image, each with a short text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def draw_boxes(
    image: UInt8[Tensor, "3 H W"],
    boxes: Float[Tensor, "N 4"],
    colours: Sequence[tuple[int, int, int]],
    texts: Sequence[str],
) -> UInt8[Tensor, "3 H W"]:
    """Outlines x1 y1 x2 y2 in pixels, as thick as the image is large, the first ones on top.

    A text stands inside its box, where it fits and covers no text of an earlier box.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    draw = ImageDraw.Draw(picture)
    height, width = image.shape[-2:]
    line = max(1, round(min(height, width) / 200))
    font = ImageFont.load_default(max(9, min(height, width) // 40))
    drawn = [
        ([round(value) for value in box], tuple(colour)) for box, colour in zip(boxes.tolist(), colours, strict=True)
    ]
    for (left, top, right, bottom), colour in reversed(drawn):
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
    taken: list[tuple[float, float, float, float]] = []
    for ((left, top, right, bottom), colour), text in zip(drawn, texts, strict=True):
        place = left, top, left + font.getlength(text) + 4, top + font.getbbox("0")[3] + 3
        free = all(place[2] <= t[0] or t[2] <= place[0] or place[3] <= t[1] or t[3] <= place[1] for t in taken)
        if text and free and place[2] <= right and place[3] <= bottom:
            taken.append(place)
            draw.rectangle(place, fill=colour)
            draw.text((left + 2, top + 1), text, (0, 0, 0) if sum(colour) > 380 else (255, 255, 255), font)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
