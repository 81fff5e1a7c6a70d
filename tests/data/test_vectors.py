"""Polygons and lines on pixels, against point tests and distances by brute force; GeoJSON and its faults."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from segweave.data.vectors import fill, read_geojson, stroke
from segweave.errors import DataError

HEIGHT, WIDTH = 14, 18
CENTRES = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), -1)
# away from the centres' coordinates, where the two programs may decide otherwise
numbers = st.floats(-5, 25).filter(lambda value: abs((value % 1) - 0.5) > 1e-3)
corners = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8)


def filled(*rings: Any) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    fill(mask, [np.array(ring, float) for ring in rings])
    return mask


def inside(ring: Any) -> tuple[np.ndarray, np.ndarray]:
    """By the even-odd rule, an edge at a time; and where an edge is so near that rounding decides."""
    points = np.array(ring, float)
    odd, near = np.zeros((2, HEIGHT, WIDTH), bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
        spans = (y1 > CENTRES[..., 1]) != (y2 > CENTRES[..., 1])
        with np.errstate(all="ignore"):
            apart = CENTRES[..., 0] - (x1 + (CENTRES[..., 1] - y1) / (y2 - y1) * (x2 - x1))
        odd ^= spans & (apart > 0)
        near |= spans & (np.abs(apart) < 1e-9)
    return odd, near


@given(corners, corners)
def test_a_pixel_is_filled_where_its_centre_lies_in_an_odd_number_of_rings(one: Any, two: Any) -> None:
    (odd_one, near_one), (odd_two, near_two) = inside(one), inside(two)
    assert ((filled(one, two) == (odd_one ^ odd_two)) | near_one | near_two).all()


def test_a_star_and_a_hole_as_matplotlib_has_them() -> None:
    convex = [(1.2, 7.1), (5.3, 1.4), (13.7, 2.2), (16.1, 9.8), (6.6, 12.9)]
    hole = [(6.1, 4.2), (11.2, 4.9), (9.3, 8.8)]
    of_matplotlib = [Outline(np.array([*r, r[0]])).contains_points(CENTRES.reshape(-1, 2)) for r in (convex, hole)]
    expected = (of_matplotlib[0] & ~of_matplotlib[1]).reshape(HEIGHT, WIDTH)
    assert expected.sum() > 60
    assert (filled(convex, hole) == expected).all()


def test_polygons_that_share_edges_cover_each_pixel_once() -> None:
    """Edges through the very centres of pixels: a fan of triangles round one, over the whole image."""
    middle, round_it = (8.5, 6.5), [(0, 0), (8.5, 0), (18, 0), (18, 6.5), (18, 14), (8.5, 14), (0, 14), (0, 6.5)]
    triangles = [filled([middle, a, b]) for a, b in zip(round_it, [*round_it[1:], round_it[0]], strict=True)]
    assert (np.sum(triangles, 0) == 1).all()


def test_a_closed_ring_is_the_open_one_and_what_lies_outside_changes_nothing() -> None:
    square = [(2, 3), (6, 3), (6, 8), (2, 8)]
    assert (filled([*square, square[0]]) == filled(square)).all()
    assert filled(square).sum() == 20
    assert not filled([(30, 3), (36, 3), (33, 9)]).any()
    assert filled([(-9, -9), (99, -9), (99, 99), (-9, 99)]).all()


@settings(max_examples=25)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=5), st.floats(0.2, 6), st.floats(0.3, 2))
def test_a_stroke_is_every_centre_within_the_radius(line: Any, radius: float, aspect: float) -> None:
    size = np.array([1.0, aspect])
    mask = np.zeros((HEIGHT, WIDTH), bool)
    points = np.array(line)
    stroke(mask, points, radius, size)
    # the nearest of many points along the line is at most half their spacing farther than the line
    dense = np.concatenate([a + np.linspace(0, 1, 2001)[:, None] * (b - a) for a, b in pairwise(points)])
    slack = 45 / 2000
    nearest = np.stack([np.hypot(*((dense - centre) * size).T).min() for centre in CENTRES.reshape(-1, 2)]).reshape(
        HEIGHT, WIDTH
    )
    assert mask[nearest <= radius - slack].all()
    assert not mask[nearest > radius + slack].any()


def feature(kind: str, coordinates: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": {"type": kind, "coordinates": coordinates}}


RING = [[0, 0, 5], [4, 0, 5], [4, 3, 5], [0, 0, 5]]


def test_geometries_of_every_kind_are_read(tmp_path: Path) -> None:
    features = [
        feature("Polygon", [RING, RING]),
        feature("MultiPolygon", [[RING], [RING]]),
        feature("LineString", RING),
        feature("MultiLineString", [RING, RING]),
        feature("Point", [0, 0]),
        {"type": "Feature", "geometry": None},
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    epsg, shapes, others = read_geojson(path)
    assert (epsg, others) == (32616, 2)
    assert [(shape.closed, len(shape.paths)) for shape in shapes] == [(True, 2), (True, 2), (False, 1), (False, 2)]
    assert shapes[0].paths[0].tolist() == [[0, 0], [4, 0], [4, 3], [0, 0]]


@pytest.mark.parametrize(
    ("name", "number"),
    [(None, 4326), ("urn:ogc:def:crs:OGC:1.3:CRS84", 4326), ("EPSG:3857", 3857), ("urn:ogc:def:crs:X", None)],
)
def test_the_reference_system_is_that_of_the_file(tmp_path: Path, name: str | None, number: int | None) -> None:
    path = tmp_path / "a.geojson"
    crs = {"crs": {"type": "name", "properties": {"name": name}}} if name else {}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [], **crs}))
    assert read_geojson(path) == (number, [], 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"features": [{}]}',
        json.dumps({"features": [feature("Polygon", [[]])]}),
        json.dumps({"features": [feature("Polygon", [[["a", "b"]]])]}),
        json.dumps({"features": [feature("LineString", 5)]}),
        '{"features": [{"geometry": {"type": "LineString", "coordinates": [[NaN, 1]]}}]}',
    ],
)
def test_what_is_no_feature_collection_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.geojson: cannot be read .*; expected a GeoJSON FeatureCollection"):
        read_geojson(path)
