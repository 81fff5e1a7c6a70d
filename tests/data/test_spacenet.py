"""SpaceNet's tiles and GeoJSON: footprints, boxes, roads, reference systems, and solaris' real samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_georeference import UTM, write_geotiff

from segweave.data.georeference import read_georeference
from segweave.data.spacenet import SpaceNet
from segweave.data.vectors import fill, read_geojson, stroke
from segweave.errors import ConfigError, DataError
from segweave.tasks import Classification, Detection, Semantic
from segweave.tasks.task import Task

HEIGHT, WIDTH, EAST, NORTH, SIZE = 40, 50, 733601.0, 3725139.0, 0.5


def tasks(roads: bool = True) -> list[Task]:
    known = SpaceNet.default_classes()
    found: list[Task] = [
        Semantic("footprints", classes=known["footprints"]),
        Detection("objects", classes=known["objects"]),
        Classification("presence", classes=known["presence"]),
    ]
    return [*found, Semantic("roads", classes=known["roads"])] if roads else found


def ground(points: Any) -> list[list[float]]:
    """Pixels as coordinates."""
    return [[EAST + SIZE * x, NORTH - SIZE * y] for x, y in points]


def write_vectors(path: Path, kind: str, paths: Sequence[Any], epsg: int = 32616) -> None:
    coordinates = [[ground(path)] if kind == "Polygon" else ground(path) for path in paths]
    features = [{"type": "Feature", "geometry": {"type": kind, "coordinates": c}} for c in coordinates]
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))


BUILDING = [(10, 5), (20, 5), (20, 12), (10, 12)]


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    """As SpaceNet 2 and 3 were released: two areas, images of three bands plane by plane, one tile not labelled."""
    rng = np.random.default_rng(0)
    for area in ("AOI_2_Vegas", "AOI_3_Paris"):
        for number in range(1, 9):
            base, name = root / "train" / area, f"SN2_buildings_train_{area}_{{}}_img{number}"
            pixels = rng.integers(0, 2**11, (3, HEIGHT, WIDTH)).astype(np.uint16)
            write_geotiff(base / "PS-RGB" / f"{name.format('PS-RGB')}.tif", pixels, (EAST, NORTH), SIZE, UTM)
            write_geotiff(base / "PAN" / f"{name.format('PAN')}.tif", pixels[0], (EAST, NORTH), SIZE, UTM)
            buildings = [[(x + number, y) for x, y in BUILDING]] if number % 3 else []
            if number != 8:
                label = base / "geojson_buildings" / f"{name.format('geojson_buildings')}.geojson"
                write_vectors(label, "Polygon", buildings)
                label = base / "geojson_roads" / f"SN3_roads_train_{area}_geojson_roads_img{number}.geojson"
                write_vectors(label, "LineString", [[(0, 20), (WIDTH, 20)]])
    test = root / "test_public" / "AOI_2_Vegas" / "PS-RGB" / "SN2_buildings_test_AOI_2_Vegas_PS-RGB_img77.tif"
    write_geotiff(test, pixels, (EAST, NORTH), SIZE, UTM)
    return {"root": str(root), "bands": 3}, tasks()


def test_each_layer_is_what_the_polygons_and_lines_say(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = SpaceNet("train", readers, **options, val=0.01)
    index = data.ids.index("SN2_buildings_train_AOI_3_Paris_PS-RGB_img4")
    sample = data[index]
    assert sample.image.dtype == torch.uint16
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:12, 14:24] = 1
    assert (sample.annotations["footprints"].numpy() == expected).all()
    assert sample.annotations["objects"].as_subclass(torch.Tensor)[:, :5].tolist() == [[14, 5, 24, 12, 0]]
    assert int(sample.annotations["presence"]) == 1
    # 4 m are 8 pixels: the centres of rows 16 to 23 lie within 4 pixels of row 20's upper edge
    roads = sample.annotations["roads"].numpy()
    assert np.flatnonzero(roads.any(1)).tolist() == list(range(16, 24))
    assert roads[16:24].all()


def test_a_tile_without_features_shows_no_building_and_one_without_a_file_is_not_labelled(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = SpaceNet("train", readers, **options, val=0.01)
    empty, absent = (data.ids.index(f"SN2_buildings_train_AOI_2_Vegas_PS-RGB_img{n}") for n in (3, 8))
    sample = data[empty]
    assert int(sample.annotations["presence"]) == 0
    assert not sample.annotations["footprints"].any()
    assert sample.annotations["objects"].shape == (0, 8)
    assert not data[absent].annotations


def test_the_test_folders_are_left_out_and_the_imagery_is_chosen(tmp_path: Path) -> None:
    options, _ = made(tmp_path)
    data = SpaceNet("train", tasks(), **options | {"imagery": "PAN", "bands": 1}, val=0.01)
    assert not any("img77" in id for id in data.ids)
    assert data[0].image.shape == (1, HEIGHT, WIDTH)
    with pytest.raises(ConfigError, match=r"data\.imagery: found MUL and in .* PAN, PS-RGB; expected the name of one"):
        SpaceNet("train", tasks(), **options, imagery="MUL")
    with pytest.raises(ConfigError, match=r"data\.road_width: found 0"):
        SpaceNet("train", tasks(), **options, road_width=0)


def test_images_of_one_tile_are_drawn_together(tmp_path: Path) -> None:
    for number in range(12):
        for look in ("nadir7", "nadir8"):
            name = f"SN4_buildings_train_AOI_6_Atlanta_{look}_catid_1030010003D22F00_Pan-Sharpen_{number}_3730989"
            write_geotiff(tmp_path / look / "Pan-Sharpen" / f"{name}.tif", np.zeros((8, 8), np.uint16), (0, 0), 1, UTM)
        label = f"SN4_buildings_train_AOI_6_Atlanta_geojson_buildings_{number}_3730989.geojson"
        write_vectors(tmp_path / "geojson" / "spacenet-buildings" / label, "Polygon", [])
    train, val = (SpaceNet(split, tasks(roads=False), root=str(tmp_path), val=0.4) for split in ("train", "val"))
    assert train.labelled("footprints") + val.labelled("footprints") == 24
    tiles = [{id.split("_")[-2] for id in data.ids} for data in (train, val)]
    assert not tiles[0] & tiles[1]
    assert len(train) == 2 * len(tiles[0])


def test_faults_are_told(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    folder = tmp_path / "train" / "AOI_2_Vegas" / "geojson_buildings"
    label = folder / "SN2_buildings_train_AOI_2_Vegas_geojson_buildings_img4.geojson"

    def read() -> Any:
        data = SpaceNet("train", readers, **options, val=0.01)
        return data, data[data.ids.index("SN2_buildings_train_AOI_2_Vegas_PS-RGB_img4")]

    write_vectors(label, "Polygon", [BUILDING], epsg=4326)
    with pytest.raises(DataError, match=r"img4\.geojson: found coordinates of EPSG:4326; expected EPSG:32616"):
        read()
    label.write_text("")
    with pytest.raises(DataError, match=r"img4\.geojson: cannot be read"):
        read()
    write_vectors(label, "LineString", [BUILDING])
    data, sample = read()
    assert not sample.annotations["footprints"].any()
    assert data.notes["features that are no polygons: left out"] == 3  # of three tasks
    for path in folder.parent.parent.glob("*/geojson_buildings/*"):
        path.unlink()
    with pytest.raises(DataError, match="found no GeoJSON file of footprints with the name of a tile"):
        read()


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum() / (one | two).sum())


def test_the_real_tiles(real_data: Path) -> None:
    root = real_data / "spacenet_sample"
    splits = [SpaceNet(split, tasks(roads=False), root=str(root)) for split in ("train", "val")]
    assert sum(map(len, splits)) == 100
    labels = [
        [data.annotation(i, task) for task in ("footprints", "objects", "presence")]
        for data in splits
        for i in range(len(data))
    ]
    assert sum(boxes.shape[0] for _, boxes, _ in labels) <= 89  # polygons
    assert sum(len(read_geojson(path)[1]) == 0 for path in root.rglob("geoms_*.geojson")) == 43
    assert sum(int(present) for _, _, present in labels) <= 57
    assert all(int(present) == int(footprint.max()) for footprint, _, present in labels)
    # the tiles laid side by side are the whole image: its polygons fill the same pixels
    whole = np.zeros((900, 900), bool)
    image = root / "solaris" / "data" / "sample_geotiff.tif"
    place = read_georeference(image)
    for shape in read_geojson(image.with_name("geotiff_labels.geojson"))[1]:
        fill(whole, [place.to_pixels(path) for path in shape.paths])
    joined = np.zeros((900, 900), bool)
    for data in splits:
        for index, id in enumerate(data.ids):
            x, y = place.to_pixels(np.array([[float(part) for part in id.split("_")[-2:]]]))[0].round().astype(int)
            footprint = data.annotation(index, "footprints")
            assert footprint is not None
            joined[y : y + 90, x : x + 90] |= footprint.numpy().astype(bool)
    assert overlap(whole, joined) > 0.99


def test_the_rasters_are_those_that_solaris_made(real_data: Path) -> None:
    """`footprint_mask`, every pixel, and `road_mask` with a width of 4 m, which goes by way of UTM and by polygons."""
    folder = real_data / "spacenet_sample" / "solaris" / "data"
    buildings, roads = np.zeros((900, 900), bool), np.zeros((1300, 1300), bool)
    place = read_georeference(folder / "sample_geotiff.tif")
    for shape in read_geojson(folder / "geotiff_labels.geojson")[1]:
        fill(buildings, [place.to_pixels(path) for path in shape.paths])
    assert (buildings == (np.asarray(Image.open(folder / "sample_fp_mask_from_geojson.tif")) > 0)).all()
    place = read_georeference(folder / "road_mask_input.tif")
    for shape in read_geojson(folder / "sample_roads_for_masking.geojson")[1]:
        for line in shape.paths:
            stroke(roads, place.to_pixels(line), 2.0, place.pixel_size(1300, 1300))
    assert overlap(roads, np.asarray(Image.open(folder / "sample_road_raster_mask.tif")) > 0) > 0.9995
