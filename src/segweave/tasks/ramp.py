"""Numbers as colours, for the pictures of dense tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

UNKNOWN = (128, 128, 128)
"""Where nothing is known."""
ERROR_RAMP = ((250, 250, 250), (254, 204, 140), (240, 110, 60), (190, 20, 40), (80, 0, 20))


def coloured(
    position: Float[Tensor, "H W"], ramp: Sequence[tuple[int, int, int]], known: Bool[Tensor, "H W"]
) -> UInt8[Tensor, "3 H W"]:
    """Positions from 0 to 1 as interpolated colours of the ramp, grey where nothing is known."""
    position = position.float().nan_to_num(1.0, 1.0, 0.0).clamp(0, 1) * (len(ramp) - 1)
    below = position.floor().long().clamp(max=len(ramp) - 2)
    colours = torch.tensor(ramp, dtype=torch.float32)
    drawn = torch.lerp(colours[below], colours[below + 1], (position - below)[..., None])
    return torch.where(known[..., None], drawn, torch.tensor(UNKNOWN)).permute(2, 0, 1).round().to(torch.uint8)
