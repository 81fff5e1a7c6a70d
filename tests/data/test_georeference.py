"""Where pixels lie: by scale and tie point, by a matrix, of areas and of points, in metres and in degrees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segweave.data.georeference import read_georeference
from segweave.errors import DataError

SHORT, DOUBLE = 3, 12


def geokeys(numbers: dict[int, int]) -> tuple[int, int, int, Sequence[int], bool]:
    directory = [1, 1, 0, len(numbers), *(part for key in sorted(numbers) for part in (key, 0, 1, numbers[key]))]
    return 34735, SHORT, len(directory), directory, True


def write_geotiff(
    path: Path,
    pixels: np.ndarray,
    origin: tuple[float, float],
    size: float,
    keys: dict[int, int],
    tags: Sequence[Any] = (),
) -> None:
    """Pixels [H, W] or [bands, H, W], north up."""
    ties = (0.0, 0.0, 0.0, *origin, 0.0)
    place = [(33550, DOUBLE, 3, (size, size, 0.0), True), (33922, DOUBLE, 6, ties, True)]
    planar = {"planarconfig": "separate"} if pixels.ndim == 3 else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = [*(tags or place), geokeys(keys)]
    tifffile.imwrite(path, pixels, photometric="minisblack", extratags=extra, metadata=None, **planar)


IMAGE = np.zeros((20, 30), np.uint16)
UTM = {1024: 1, 1025: 1, 3072: 32616, 3076: 9001}


def test_a_north_up_image_in_metres(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", IMAGE, (733601.0, 3725139.0), 0.5, UTM)
    place = read_georeference(tmp_path / "a.tif")
    assert place.epsg == 32616
    pixels = place.to_pixels(np.array([[733601.0, 3725139.0], [733601.25, 3725137.5]]))
    assert pixels.tolist() == [[0, 0], [0.5, 3]]
    assert place.pixel_size(20, 30).tolist() == [0.5, 0.5]


def test_the_tie_of_a_point_is_the_centre_of_a_pixel(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", IMAGE, (100.0, 50.0), 2.0, UTM | {1025: 2})
    assert read_georeference(tmp_path / "a.tif").to_pixels(np.array([[100.0, 50.0]])).tolist() == [[0.5, 0.5]]


def test_a_turned_image_has_a_matrix(tmp_path: Path) -> None:
    matrix = (3.0, 4.0, 0, 10.0, 4.0, -3.0, 0, 20.0, 0, 0, 0, 0, 0, 0, 0, 1.0)
    write_geotiff(tmp_path / "a.tif", IMAGE, (0, 0), 1, UTM, [(34264, DOUBLE, 16, matrix, True)])
    place = read_georeference(tmp_path / "a.tif")
    np.testing.assert_allclose(place.to_pixels(np.array([[10 + 3 * 7 + 4 * 2, 20 + 4 * 7 - 3 * 2.0]])), [[7, 2]])
    np.testing.assert_allclose(place.pixel_size(20, 30), [5, 5])


def test_a_pixel_in_degrees_is_as_large_as_the_ellipsoid_says(tmp_path: Path) -> None:
    """Lengths of a degree at 45 degrees north, from tables of the WGS 84 ellipsoid: 78847 and 111132 m."""
    write_geotiff(tmp_path / "a.tif", IMAGE, (7.0, 45.0 + 10e-6), 1e-6, {1024: 2, 1025: 1, 2048: 4326})
    place = read_georeference(tmp_path / "a.tif")
    assert place.epsg == 4326
    np.testing.assert_allclose(place.pixel_size(20, 30), [0.078847, 0.111132], rtol=1e-5)


def test_what_does_not_say_where_it_lies_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    with pytest.raises(DataError, match=r"a\.tif: found no tags that say where it lies"):
        read_georeference(tmp_path / "a.tif")
    write_geotiff(tmp_path / "b.tif", IMAGE, (0, 0), 1, UTM | {3076: 9003})
    with pytest.raises(DataError, match=r"b\.tif: found lengths in EPSG unit 9003; expected metres"):
        read_georeference(tmp_path / "b.tif")
    (tmp_path / "c.tif").write_bytes(b"II*\0")
    with pytest.raises(DataError, match=r"c\.tif: found an unreadable file"):
        read_georeference(tmp_path / "c.tif")
