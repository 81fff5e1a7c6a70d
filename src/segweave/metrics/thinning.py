"""Edges one pixel wide: thinning of binary maps, and non-maximum suppression of probabilities.

Both are what evaluations of edges do before they match: P. Dollar & C. L. Zitnick, Fast edge detection using structured
forests (2015) and its successors suppress a map, threshold it, and thin what is left.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt64
from scipy import ndimage

_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
"""x1 to x8 of the thinning's conditions: (down, right), counter-clockwise from the right."""
_SMOOTHED, _TOLERANCE, _FADE = 4, 1.01, 5
"""Radius in pixels of the filter that directions are taken from, how much stronger a neighbour must be, and the border
in pixels over which edges fade."""


def thin(edges: Bool[np.ndarray, "H W"] | UInt64[np.ndarray, "H W"]) -> np.ndarray:
    """The lines of a binary map, thinned until nothing changes; regions stay in one piece, eight neighbours connected.

    Z. Guo & R. W. Hall, Parallel thinning with two-subiteration algorithms (1989), algorithm A1, in the form of
    `bwmorph(edges, "thin", Inf)`, whose documentation has the conditions G1 to G3.

    Args:
        edges: one map, or 64 in the bits of integers, each of which is thinned as if it were alone.
    """
    padded = np.pad(edges, 1)
    flat, width = padded.ravel(), padded.shape[1]
    offsets = np.array([down * width + right for down, right in _NEIGHBOURS])[:, None]
    # by pass, the places that were not looked at since they or a neighbour changed
    there = flat != 0
    pending = np.stack([there, there])
    while pending.any():
        for second in (False, True):
            places = np.flatnonzero(pending[int(second)] & there)
            pending[int(second)] = False
            gone = flat[places] & _removable(flat[places + offsets], second)
            places, gone = places[gone != 0], gone[gone != 0]
            flat[places] ^= gone
            pending[:, places + offsets] = True
    return padded[1:-1, 1:-1].copy()


def _removable(x: Shaped[np.ndarray, "8 places"], second: bool) -> Shaped[np.ndarray, " places"]:
    """Where an edge pixel goes in one of the two passes, by its neighbours x1 to x8; bit by bit, as `thin`."""
    odd, even = x[::2], x[1::2]
    following = np.roll(odd, -1, 0)
    crossing, before, after = ~odd & (even | following), odd | even, even | following
    once = np.bitwise_xor.reduce(crossing) & ~(crossing[0] & crossing[1] | crossing[2] & crossing[3])
    fewest = _two(before) & _two(after) & ~(np.bitwise_and.reduce(before) & np.bitwise_and.reduce(after))
    x1, x2, x3, x8 = np.roll(x, -4, 0)[[0, 1, 2, 7]] if second else x[[0, 1, 2, 7]]
    return once & fewest & ~((x2 | x3 | ~x8) & x1)


def _two(x: Shaped[np.ndarray, "4 places"]) -> Shaped[np.ndarray, " places"]:
    """Whether two or more of four are true."""
    a, b, c, d = x
    return a & b | c & d | (a | b) & (c | d)


def suppress(edges: Float[np.ndarray, "H W"], least: float = 0.0) -> Float[np.ndarray, "H W"]:
    """Probabilities with those set to 0 that are not the strongest across their edge.

    As `edgesNms` of the toolbox of Dollar & Zitnick is called by it, by the evaluation of HED, and by SEISM for
    multi-task networks: directions from second differences of the map under a triangle filter of radius 4, neighbours
    one pixel away by linear interpolation, suppressed where one is over 1.01 times stronger. Edges fade linearly
    to 0 over the 5 pixels at the border of the image (fewer where it is under 10 wide).

    Args:
        edges: the map.
        least: what is below it becomes 0 however its neighbours are, which saves the time of a look at them.
    """
    ramp = np.arange(1, _SMOOTHED + 2)
    triangle = np.concatenate([ramp, ramp[-2::-1]]) / (_SMOOTHED + 1) ** 2
    smooth = ndimage.correlate1d(ndimage.correlate1d(edges, triangle, 0, mode="reflect"), triangle, 1, mode="reflect")
    along_y, along_x = _difference(smooth, 0), _difference(smooth, 1)
    y, x = np.nonzero(edges >= least)
    along_xx, along_yy, along_xy = (
        _difference(values, axis)[y, x] for values, axis in ((along_x, 1), (along_y, 0), (along_y, 1))
    )
    direction = np.arctan(along_yy * np.sign(-along_xy) / (along_xx + 1e-5))
    down, right = np.sin(direction), np.cos(direction)
    strongest = np.maximum(
        *(
            ndimage.map_coordinates(edges, [y + side * down, x + side * right], order=1, mode="nearest")
            for side in (-1, 1)
        )
    )
    values = np.where(_TOLERANCE * edges[y, x] < strongest, 0, edges[y, x])
    border = min(_FADE, edges.shape[0] // 2, edges.shape[1] // 2)
    if border:
        for place, length in zip((y, x), edges.shape, strict=True):
            values *= np.minimum(np.minimum(place, length - 1 - place) / border, 1)
    kept = np.zeros_like(edges)
    kept[y, x] = values
    return kept


def _difference(values: Float[np.ndarray, "H W"], axis: int) -> Float[np.ndarray, "H W"]:
    """Central differences along an axis, one-sided at the border; 0 along an axis of one pixel."""
    return np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values)
