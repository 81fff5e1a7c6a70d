"""Polygons and lines: read from GeoJSON, and drawn by where the centres of pixels lie."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from segweave.errors import DataError

_LONGITUDE_LATITUDE = 4326
_KINDS = {"Polygon": 1, "MultiPolygon": 2, "LineString": 0, "MultiLineString": 1}
"""How deep the lists of points lie in the coordinates of a geometry."""
_FARTHEST = 1e9
"""A coordinate that no reference system reaches on Earth, in feet or otherwise."""


class Shape(NamedTuple):
    """The geometry of a feature.

    Args:
        closed: whether it is a polygon, or several; lines otherwise.
        paths: the rings or lines. A point lies in a polygon if it lies in an odd number of rings.
    """

    closed: bool
    paths: Sequence[Float64[np.ndarray, "_ 2"]]


def read_geojson(path: Path) -> tuple[int | None, list[Shape], int]:
    """The reference system's EPSG number, the polygons and lines, and how many features are neither.

    Without `crs` the coordinates are longitude and latitude (RFC 7946), whose number is 4326 here, also for the name
    CRS84; a name that is of no EPSG number gives None. Points come easting or longitude first. A third coordinate is
    left out.

    Raises:
        DataError: a file that is no GeoJSON FeatureCollection.
    """
    try:
        collection = json.loads(path.read_text(encoding="utf-8-sig"))
        name = (collection.get("crs") or {"properties": {"name": "CRS84"}})["properties"]["name"]
        geometries = [feature["geometry"] for feature in collection["features"]]
        known = [geometry for geometry in geometries if geometry and geometry["type"] in _KINDS]
        shapes = [_shape(geometry) for geometry in known]
        number = re.search(r"EPSG:.*?(\d+)$", name)
        epsg = _LONGITUDE_LATITUDE if name.endswith("CRS84") else int(number[1]) if number else None
    except (OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({what}); expected a GeoJSON FeatureCollection") from None
    return epsg, shapes, len(geometries) - len(known)


def _shape(geometry: Any) -> Shape:
    paths = [geometry["coordinates"]]
    for _ in range(_KINDS[geometry["type"]]):
        paths = [path for deeper in paths for path in deeper]
    arrays = [np.array([point[:2] for point in path], np.float64).reshape(-1, 2) for path in paths]
    if not arrays or not all(len(array) and (np.abs(array) < _FARTHEST).all() for array in arrays):
        raise ValueError(f"a {geometry['type']} without points, or with some that are nowhere on Earth")
    return Shape("Polygon" in geometry["type"], arrays)


def fill(mask: Bool[np.ndarray, "H W"], rings: Sequence[Float64[np.ndarray, "_ 2"]]) -> None:
    """Sets the pixels whose centre lies in an odd number of rings, in place; the rest stays.

    A centre on an edge belongs to what lies right of the edge, or below it: of polygons that share the edge, to one.

    Args:
        rings: corners in pixels, the corner of the first pixel at (0, 0).
    """
    points = np.concatenate(rings)
    limits = mask.shape[::-1]
    left, top = np.clip(np.floor(points.min(0)), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, limits).astype(int)
    crossed = np.zeros((bottom - top, right - left + 1), bool)
    for ring in rings:
        for ends in zip(ring, np.roll(ring, -1, 0), strict=True):
            # always downwards, so that an edge that two polygons share is computed alike for both
            (x1, y1), (x2, y2) = sorted(ends, key=lambda point: (point[1], point[0]))
            first, last = (int(np.clip(np.ceil(y - 0.5), top, bottom)) for y in (y1, y2))
            rows = np.arange(first, last)
            across = x1 + (rows + 0.5 - y1) * ((x2 - x1) / (y2 - y1) if first < last else 0)
            crossed[rows - top, np.clip(np.ceil(across - 0.5), left, right).astype(int) - left] ^= True
    mask[top:bottom, left:right] |= np.logical_xor.accumulate(crossed, axis=1)[:, :-1]


def stroke(
    mask: Bool[np.ndarray, "H W"],
    line: Float64[np.ndarray, "N 2"],
    radius: float,
    pixel_size: Float64[np.ndarray, "axes=2"],
) -> None:
    """Sets the pixels whose centre lies at most `radius` from a line, in place; the rest stays.

    Args:
        line: its points in pixels, the corner of the first pixel at (0, 0).
        radius: in the unit of `pixel_size`, the width and height of a pixel.
    """
    limits = mask.shape[::-1]
    for ends in pairwise(line):
        segment = np.array(ends)
        left, top = np.clip(np.floor(segment.min(0) - radius / pixel_size), 0, limits).astype(int)
        right, bottom = np.clip(np.ceil(segment.max(0) + radius / pixel_size), 0, limits).astype(int)
        start, end = segment * pixel_size
        down, across = np.mgrid[top:bottom, left:right] + 0.5
        offsets = np.stack([across, down], -1) * pixel_size - start
        step = end - start
        length = step @ step
        along = np.clip(offsets @ step / length, 0, 1) if length else np.zeros(offsets.shape[:2])
        apart = offsets - along[..., None] * step
        mask[top:bottom, left:right] |= (apart**2).sum(-1) <= radius**2
