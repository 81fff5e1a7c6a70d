"""Dirt on the lens of the camera that looks at the synthetic streets: a layer over the picture with labels of its own.

Its random numbers are a stream of their own, so a street has the same labels with and without it, and it depends on
nothing in the street. Like the streets, it does not depend on the picture's size, and its bytes not on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segweave.data.streets_canvas import Dice, chance, noise, rgb

EDITION = 1
"""Raised with every change to the pixels or labels that a seed gives."""
LEVELS = ("clean", "transparent", "semi-transparent", "opaque")
SOILS = ("dust", "slush", "mud")
_COLOURS = ((0.62, 0.55, 0.42), (0.66, 0.70, 0.76), (0.28, 0.20, 0.13))
_STREAM = 1
_GRAINS = 64
"""Of dirt, in the height of a picture."""


@dataclass(frozen=True)
class Soiled:
    """A picture seen through a soiled lens.

    Args:
        image: uint8 [H, W, 3].
        thickness: float32 [H, W], of the dirt, as a share of the greatest there is; 0 where the lens is clean.
        levels: uint8 [H, W], ids of LEVELS: thickness 0, up to a third, up to two thirds, and more.
        soil: id of SOILS.
    """

    image: np.ndarray
    thickness: np.ndarray
    levels: np.ndarray
    soil: int


def soil(image: np.ndarray, seed: int, index: int, strength: float) -> Soiled:
    """The picture number `index` of a seed with its dirt over it.

    Args:
        image: uint8 [H, W, 3].
        seed, index: those of the street.
        strength: the share of the picture that the thickest dirt hides, 0 to 1.
    """
    dice = Dice(seed, index, _STREAM)
    height, width = image.shape[:2]
    kind = dice.integer(len(SOILS))
    row, column = np.arange(height)[:, None], np.arange(width)[None]
    field = noise((column + 0.5) / height * 2.5 + 100, (row + 0.5) / height * 2.5 + 100, dice.seed())
    thickness = np.clip((field - dice.uniform(0.25, 0.6)) * 3.0, 0, 1).astype(np.float32)
    grain = chance(dice.seed(), row * _GRAINS // height, column * _GRAINS // height)
    shade = dice.uniform(0.75, 1.25)
    hidden = strength * thickness.astype(np.float64) * (0.4 + 0.6 * grain)
    colour = np.minimum(rgb(*_COLOURS[kind]) * shade, 1).reshape(3) * 255
    seen = image + hidden[:, :, None] * (colour - image)
    levels = (thickness > 0).astype(np.uint8) + (thickness > 1 / 3) + (thickness > 2 / 3)
    return Soiled(np.floor(seen + 0.5).astype(np.uint8), thickness, levels.astype(np.uint8), kind)
