"""Where the pixels of a GeoTIFF lie, by its tags (GeoTIFF 1.1, OGC 19-008r4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from segweave import tiff
from segweave.decoding import reading
from segweave.errors import DataError

_SCALE, _TIES, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED, _LINEAR_UNITS = 1025, 2048, 3072, 3076
_POINT, _METRE = 2, 9001
_AXIS, _FLATTENING = 6_378_137.0, 1 / 298.257223563
"""Of the ellipsoid of WGS 84: half the long axis, in metres."""


class Georeference(NamedTuple):
    """Pixels to coordinates; the corner of the first pixel is (0, 0), x to the right and y down.

    Args:
        epsg: the coordinate reference system; None where the file does not say which.
        matrix: of a pixel (x, y, 1) to its coordinates, easting or longitude first.
        metres: whether coordinates are metres; they are degrees otherwise, longitude and latitude.
    """

    epsg: int | None
    matrix: Float64[np.ndarray, "2 3"]
    metres: bool

    def to_pixels(self, points: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
        """Coordinates as pixels."""
        # differences first: a northing in metres has seven digits before the point
        return np.linalg.solve(self.matrix[:, :2], (points - self.matrix[:, 2]).T).T

    def pixel_size(self, height: int, width: int) -> Float64[np.ndarray, "axes=2"]:
        """Width and height of a pixel in metres, of one in the middle of an image of that size."""
        scale = np.ones(2) if self.metres else _metres_per_degree((self.matrix @ (width / 2, height / 2, 1))[1])
        return np.linalg.norm(self.matrix[:, :2] * scale[:, None], axis=0)


def read_georeference(path: Path) -> Georeference:
    """Of the first image of a GeoTIFF.

    Raises:
        DataError: no TIFF, one that does not say where it lies or gives its pixels no area, or lengths in other units
            than metres.
    """
    with reading(path) as file:
        tags: Mapping[int, Any] = tiff.Directory(file).tag_v2
        if _MATRIX in tags:
            matrix = np.array(tags[_MATRIX], np.float64).reshape(4, 4)[:2, [0, 1, 3]]
        elif _SCALE in tags and _TIES in tags:
            (across, down), (x, y, _, east, north) = tags[_SCALE][:2], tags[_TIES][:5]
            matrix = np.array([[across, 0, east - across * x], [0, -down, north + down * y]], np.float64)
        else:
            raise DataError(f"{path}: found no tags that say where it lies; expected a GeoTIFF")
        numbers = np.array(tags.get(_KEYS, ()), int)[4:].reshape(-1, 4)
    if not (np.isfinite(matrix).all() and np.linalg.det(matrix[:, :2])):
        raise DataError(f"{path}: found pixels without area, by its tags; expected a GeoTIFF")
    # a location of 0 says that the number itself follows
    keys = {int(key): int(value) for key, location, _, value in numbers if location == 0}
    if keys.get(_RASTER_TYPE) == _POINT:
        matrix[:, 2] -= matrix[:, :2].sum(1) / 2
    if keys.get(_LINEAR_UNITS, _METRE) != _METRE:
        raise DataError(f"{path}: found lengths in EPSG unit {keys[_LINEAR_UNITS]}; expected metres")
    return Georeference(keys.get(_PROJECTED, keys.get(_GEOGRAPHIC)), matrix, _PROJECTED in keys)


def _metres_per_degree(latitude: float) -> Float64[np.ndarray, "axes=2"]:
    """Along a parallel and along a meridian, by the ellipsoid's radii of curvature."""
    square = _FLATTENING * (2 - _FLATTENING)
    sine = np.sin(np.radians(latitude))
    normal = _AXIS / np.sqrt(1 - square * sine**2)
    meridian = _AXIS * (1 - square) / (1 - square * sine**2) ** 1.5
    return np.radians(np.array([normal * np.cos(np.radians(latitude)), meridian]))
