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

    Texts stand inside the boxes, and only where they fit.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    draw = ImageDraw.Draw(picture)
    height, width = image.shape[-2:]
    line = max(1, round(min(height, width) / 200))
    font = ImageFont.load_default(max(9, min(height, width) // 40))
    for box, colour, text in reversed(list(zip(boxes.tolist(), colours, texts, strict=True))):
        left, top, right, bottom = (round(value) for value in box)
        corners = left, top, max(left, right - 1), max(top, bottom - 1)
        draw.rectangle(corners, outline=tuple(colour), width=line)
        across = font.getlength(text) + 4
        down = font.getbbox("0")[3] + 3
        if text and across <= right - left and down <= bottom - top:
            draw.rectangle((left, top, left + across, top + down), fill=tuple(colour))
            ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
            draw.text((left + 2, top + 1), text, ink, font)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
