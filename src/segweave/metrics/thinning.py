"""Edges one pixel wide: thinning of binary maps, and non-maximum suppression of probabilities.

Both are what evaluations of edges do before they match: P. Dollar & C. L. Zitnick, Fast edge detection using structured
forests (2015) and its successors suppress a map, threshold it, and thin what is left.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
"""x1 to x8 of the thinning's conditions: (down, right), counter-clockwise from the right."""
_SMOOTHED, _TOLERANCE, _FADE = 4, 1.01, 5
"""Radius in pixels of the filter that directions are taken from, how much stronger a neighbour must be, and the border
in pixels over which edges fade."""


def _removable(second: bool) -> Bool[np.ndarray, 256]:
    """Whether an edge pixel goes in one of the two passes, by its neighbours as the bits of a number."""
    x = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(bool)
    odd, even = x[:, ::2], x[:, 1::2]
    following = np.roll(odd, -1, 1)
    crossings = (~odd & (even | following)).sum(1)
    fewest = np.minimum((odd | even).sum(1), (even | following).sum(1))
    x1, x2, x3, x8 = (np.roll(x, -4, 1) if second else x)[:, [0, 1, 2, 7]].T
    return (crossings == 1) & (fewest >= 2) & (fewest <= 3) & ~((x2 | x3 | ~x8) & x1)


_PASSES = (_removable(second=False), _removable(second=True))


def thin(edges: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The lines of a binary map, thinned until nothing changes; regions stay in one piece, eight neighbours connected.

    Z. Guo & R. W. Hall, Parallel thinning with two-subiteration algorithms (1989), algorithm A1, in the form of
    `bwmorph(edges, "thin", Inf)`, whose documentation has the conditions G1 to G3.
    """
    padded = np.pad(edges, 1)
    flat, width = padded.ravel(), padded.shape[1]
    offsets = np.array([down * width + right for down, right in _NEIGHBOURS])
    places = np.flatnonzero(flat)
    left = -1
    while left != len(places):
        left = len(places)
        for removable in _PASSES:
            neighbours = np.packbits(flat[places[:, None] + offsets], axis=1, bitorder="little")[:, 0]
            gone = removable[neighbours]
            flat[places[gone]] = False
            places = places[~gone]
    return padded[1:-1, 1:-1].copy()


def suppress(edges: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Probabilities with those set to 0 that are not the strongest across their edge.

    As `edgesNms` of the toolbox of Dollar & Zitnick is called by it, by the evaluation of HED, and by SEISM for
    multi-task networks: directions from second differences of the map under a triangle filter of radius 4, neighbours
    one pixel away by linear interpolation, suppressed where one is over 1.01 times stronger. Edges fade linearly
    to 0 over the 5 pixels at the border of the image (fewer where it is under 10 wide).
    """
    ramp = np.arange(1, _SMOOTHED + 2)
    triangle = np.concatenate([ramp, ramp[-2::-1]]) / (_SMOOTHED + 1) ** 2
    smooth = ndimage.correlate1d(ndimage.correlate1d(edges, triangle, 0, mode="reflect"), triangle, 1, mode="reflect")
    along_y, along_x = _differences(smooth)
    along_xx = _differences(along_x)[1]
    along_yy, along_xy = _differences(along_y)
    direction = np.arctan(along_yy * np.sign(-along_xy) / (along_xx + 1e-5))
    y, x = np.nonzero(edges)
    down, right = np.sin(direction[y, x]), np.cos(direction[y, x])
    strongest = np.maximum(
        *(
            ndimage.map_coordinates(edges, [y + side * down, x + side * right], order=1, mode="nearest")
            for side in (-1, 1)
        )
    )
    kept = np.zeros_like(edges)
    kept[y, x] = np.where(_TOLERANCE * edges[y, x] < strongest, 0, edges[y, x])
    border = min(_FADE, edges.shape[0] // 2, edges.shape[1] // 2)
    if border:
        for axis, length in enumerate(edges.shape):
            place = np.arange(length)
            kept *= np.expand_dims(np.minimum(np.minimum(place, length - 1 - place) / border, 1), 1 - axis)
    return kept


def _differences(values: Float[np.ndarray, "H W"]) -> list[Float[np.ndarray, "H W"]]:
    """Central differences down and across, one-sided at the border; 0 along an axis of one pixel."""
    return [np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values) for axis in (0, 1)]
