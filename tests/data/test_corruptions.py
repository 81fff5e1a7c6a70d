"""Corrupted real files: read as what their bytes say, or refused with an error that names the file; memory bounded.

What can be told depends on the format of a file. PNG has checksums, so that a flipped bit never changes a label. TIFF,
`.npy`, JPEG, GeoJSON and YAML have none: a bit that is flipped among the values makes other values, and all that these
tests can ask is that they are exactly those that an independent reader finds in the same bytes. Ids that no class has,
sizes and colours are told in every format; ids shifted to other classes, and colours swapped for each other, are not.
"""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import tracemalloc
from collections.abc import Callable
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from segweave import rasters
from segweave.data.camvid import CamVid
from segweave.data.cwfid import CWFID
from segweave.data.nyuv2 import NYUv2
from segweave.data.survey import survey
from segweave.data.vectors import read_geojson
from segweave.errors import DataError, UnreadableError
from segweave.tasks import Detection, Semantic

CHECKED = {
    "camvid labels": "camvid/CamVid/valannot/*.png",
    "camvid images": "camvid/CamVid/val/*.png",
    "cwfid masks": "cwfid/masks/*.png",
    "cwfid colours": "cwfid/annotations/*.png",
    "dsb2018 masks": "dsb2018/stage1_train/*/masks/*.png",
    "dsb2018 images": "dsb2018/stage1_train/*/images/*.png",
    "nyuv2 labels": "nyuv2/data/nyu_labels40/*.png",
    "nyuv2 depth": "nyuv2/data/nyu_depths/*.png",
}
JPEGS = {"nyuv2 images": "nyuv2/data/nyu_images/*.jpg", "kvasir masks": "kvasir_jpegmasks/Kvasir-SEG/masks/*.jpg"}
TILES = "spacenet_sample/solaris/data/rastertile_test_expected/*.tif"
SHAPES = "spacenet_sample/solaris/data/vectortile_test_expected/*.geojson"

PLACES = st.one_of(st.integers(0, 255), st.integers(0, 2**40))
"""Of a byte, modulo the length of a file: the header's often enough."""
FLIPS = st.lists(st.tuples(PLACES, st.integers(0, 7)), min_size=1, max_size=3)


def some(count: int) -> Callable[[Any], Any]:
    """The fixtures are folders that each example may write to anew."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def smallest(root: Path, pattern: str) -> Path:
    """The smallest real file of a pattern; the test is skipped where there is none."""
    files = sorted(root.glob(pattern), key=lambda path: (path.stat().st_size, path.name))
    if not files:
        pytest.skip(f"no {root / pattern}")
    return next(path for path in files if path.stat().st_size > 200)


def flipped(whole: bytes, flips: list[tuple[int, int]]) -> bytes:
    data = bytearray(whole)
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    return bytes(data)


def attempt(read: Callable[[Path], Any], path: Path, pixels: int) -> Any:
    """What is read; None where an error names the file. Memory stays below 8 bytes for each pixel that may be read."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        return read(path)
    except DataError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64e6 + 8 * pixels
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        assert 1024 * grown < 128e6 + 16 * pixels  # ru_maxrss is in KiB on Linux


def reading(path: Path) -> tuple[Callable[[Path], np.ndarray], int]:
    """A reader of any picture that refuses four times its pixels, and how many that are."""
    header = rasters.read_header(path)
    most = 4 * header.height * header.width
    if header.mode in ("RGB", "RGBA"):
        return lambda path: rasters.read_image(path, max_pixels=most)[0].numpy(), most
    return lambda path: rasters.read_index(path, max_pixels=most).numpy(), most


# Files with checksums


@pytest.mark.parametrize("name", CHECKED)
@some(60)
@given(flips=FLIPS)
def test_a_flipped_bit_of_a_png_changes_nothing_or_is_refused(
    name: str, flips: list[tuple[int, int]], real_data: Path, tmp_path: Path
) -> None:
    source, path = smallest(real_data, CHECKED[name]), tmp_path / "a.png"
    read, most = reading(source)
    path.write_bytes(flipped(source.read_bytes(), flips))
    found = attempt(read, path, most)
    assert found is None or np.array_equal(found, read(source))


@pytest.mark.parametrize("name", CHECKED)
@some(25)
@given(place=PLACES)
def test_a_png_that_is_cut_off_is_whole_all_the_same_or_refused(
    name: str, place: int, real_data: Path, tmp_path: Path
) -> None:
    source, path = smallest(real_data, CHECKED[name]), tmp_path / "a.png"
    read, most = reading(source)
    whole = source.read_bytes()
    path.write_bytes(whole[: place % len(whole)])
    found = attempt(read, path, most)
    assert found is None or np.array_equal(found, read(source))
    assert found is None or place % len(whole) >= len(whole) - 20  # the end, which holds no pixels


@pytest.mark.parametrize("kind", ["L", "P", "1"])
@pytest.mark.parametrize("rows", [1, 100, 300])
def test_a_png_with_fewer_rows_than_its_header_says_is_refused(
    kind: str, rows: int, real_data: Path, tmp_path: Path
) -> None:
    """Checksums are right here: the missing rows would be class 0."""
    import struct
    import zlib

    labels = Image.open(smallest(real_data, CHECKED["camvid labels"])).crop((0, 0, 480, rows))
    path = tmp_path / "a.png"
    (Image.fromarray(np.array(labels) > 3) if kind == "1" else labels.convert(kind)).save(path)
    content = bytearray(path.read_bytes())
    content[20:24] = struct.pack(">I", 360)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=re.escape(str(path))):
        rasters.read_index(path)


# Files without


@pytest.mark.parametrize("name", JPEGS)
@some(60)
@given(flips=FLIPS, cut=st.none() | PLACES)
def test_a_corrupted_jpeg_is_what_another_reader_finds_or_refused(
    name: str, flips: list[tuple[int, int]], cut: int | None, real_data: Path, tmp_path: Path
) -> None:
    source, path = smallest(real_data, JPEGS[name]), tmp_path / "a.jpg"
    whole = source.read_bytes()
    content = flipped(whole, flips) if cut is None else whole[: cut % len(whole)]
    path.write_bytes(content)
    header = rasters.read_header(source)
    most = 4 * header.height * header.width
    found = attempt(lambda path: rasters.read_image(path, max_pixels=most)[0], path, most)
    if found is not None:
        expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


@some(120)
@given(flips=FLIPS, cut=st.none() | PLACES)
def test_a_corrupted_geotiff_is_what_another_reader_finds_or_refused(
    flips: list[tuple[int, int]], cut: int | None, real_data: Path, tmp_path: Path
) -> None:
    source, path = smallest(real_data, TILES), tmp_path / "a.tif"
    whole = source.read_bytes()
    content = flipped(whole, flips) if cut is None else whole[: cut % len(whole)]
    path.write_bytes(content)
    header = rasters.read_header(source)
    most = 4 * header.height * header.width
    found = attempt(lambda path: rasters.read_image(path, max_pixels=most, bands=1)[0], path, most)
    if found is None:
        return
    others = []
    for reader in (lambda: tifffile.imread(io.BytesIO(content)), lambda: np.array(Image.open(io.BytesIO(content)))):
        try:
            others.append(reader())
        except Exception:
            continue
    values = found[0].numpy()
    if values.dtype == np.float32:  # where values are not finite, the mean of the others is filled in
        others = [np.where(np.isfinite(other), other.astype(np.float32), values) for other in others]
    # a tag of a type that there is not is left out, as the standard has it: where that is the default, nothing changes
    others.append(rasters.read_image(source, bands=1)[0].numpy()[0])
    assert any(np.array_equal(values, other) for other in others)


def test_a_flipped_value_of_a_geotiff_is_not_told(real_data: Path, tmp_path: Path) -> None:
    """Nothing in the file could tell."""
    source, path = smallest(real_data, TILES), tmp_path / "a.tif"
    before = rasters.read_image(source, bands=1)[0]
    with tifffile.TiffFile(source) as file:
        assert file.pages[0].compression == 1  # pyright: ignore[reportAttributeAccessIssue]
        offset = file.pages[0].dataoffsets[0]  # pyright: ignore[reportAttributeAccessIssue]
    path.write_bytes(flipped(source.read_bytes(), [(offset, 0)]))
    after = rasters.read_image(path, bands=1)[0]
    assert int((after != before).sum()) == 1


@some(120)
@given(
    flips=FLIPS,
    cut=st.none() | PLACES,
    kind=st.sampled_from([np.uint8, np.uint16, np.int64, np.float32]),
)
@example(flips=[(70, 0)], cut=None, kind=np.uint8)
def test_a_corrupted_array_is_what_another_reader_finds_or_refused(
    flips: list[tuple[int, int]], cut: int | None, kind: type, real_data: Path, tmp_path: Path
) -> None:
    labels, path = np.array(Image.open(smallest(real_data, CHECKED["camvid labels"]))), tmp_path / "a.npy"
    np.save(path, labels.astype(kind))
    whole = path.read_bytes()
    content = flipped(whole, flips) if cut is None else whole[: cut % len(whole)]
    path.write_bytes(content)
    read = rasters.read_values if kind == np.float32 else rasters.read_index
    found = attempt(lambda path: read(path, max_pixels=4 * labels.size), path, 4 * labels.size)
    if found is not None:
        expected = np.load(io.BytesIO(content))
        assert np.array_equal(found.numpy(), expected, equal_nan=kind == np.float32)
        assert expected.size == labels.size  # another shape needs other bytes


@some(80)
@given(flips=FLIPS, cut=st.none() | PLACES)
def test_corrupted_polygons_are_what_another_reader_finds_or_refused(
    flips: list[tuple[int, int]], cut: int | None, real_data: Path, tmp_path: Path
) -> None:
    source, path = smallest(real_data, SHAPES), tmp_path / "a.geojson"
    whole = source.read_bytes()
    content = flipped(whole, flips) if cut is None else whole[: cut % len(whole)]
    path.write_bytes(content)
    found = attempt(read_geojson, path, 0)
    if found is None:
        return
    _, shapes, others = found
    features = json.loads(content.decode("utf-8-sig"))["features"]
    assert len(shapes) + others == len(features)
    kinds = ("Polygon", "MultiPolygon", "LineString", "MultiLineString")
    geometries = [g for g in (f["geometry"] for f in features) if g and g["type"] in kinds]
    for shape, geometry in zip(shapes, geometries, strict=True):
        assert shape.closed == ("Polygon" in geometry["type"])
        if geometry["type"] == "Polygon":
            rings = [[point[:2] for point in ring] for ring in geometry["coordinates"]]
            assert [ring.tolist() for ring in shape.paths] == rings


@some(25)
@given(flips=FLIPS, cut=st.none() | PLACES)
def test_corrupted_boxes_are_what_another_reader_finds_or_refused(
    flips: list[tuple[int, int]], cut: int | None, real_data: Path, tmp_path: Path
) -> None:
    """CWFID's YAML. Half of a list is a list: it cannot be told."""
    source = smallest(real_data, "cwfid/annotations/*.yaml")
    root, id = fields(real_data, tmp_path, source.name[:3])
    path = root / "annotations" / source.name
    whole = source.read_bytes()
    content = flipped(whole, flips) if cut is None else whole[: cut % len(whole)]
    path.write_bytes(content)
    data = CWFID("test", [Detection("objects", classes=["crop", "weed"])], root=str(root))
    found = attempt(lambda _: data.values("objects", path, id), path, 0)
    if found is None:
        return
    plants = np.atleast_1d(yaml.safe_load(content.decode())["annotation"])
    corners = [np.stack([np.ravel(plant["points"][axis]) for axis in "xy"]) for plant in plants]
    rows = [
        [*points.min(1), *points.max(1), plant["type"] == "weed"] for points, plant in zip(corners, plants, strict=True)
    ]
    assert np.array_equal(found.numpy(), np.array(rows, np.float32).reshape(-1, 5), equal_nan=True)


# Labels that are whole and wrong


def fields(real_data: Path, root: Path, number: str) -> tuple[Path, str]:
    """CWFID with one image of train and of test."""
    for name, end in (("images", "image.png"), ("masks", "mask.png"), ("annotations", "annotation.png")):
        (root / name).mkdir(exist_ok=True)
        source = real_data / "cwfid" / name / f"{number}_{end}"
        if not source.is_file():
            pytest.skip(f"no {source}")
        shutil.copy(source, root / name)
    (root / "train_test_split.yaml").write_text(f"train: [{int(number)}]\ntest: [{int(number)}]\n")
    return root, number


@pytest.fixture
def street(real_data: Path, tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """CamVid with one frame in val: the root, the labels' file, and its values."""
    label = smallest(real_data, CHECKED["camvid labels"])
    for folder, source in (("valannot", label), ("val", label.parent.parent / "val" / label.name)):
        for split in ("train", "val"):
            place = tmp_path / "CamVid" / folder.replace("val", split)
            place.mkdir(parents=True)
            (place / label.name).write_bytes(source.read_bytes())
    return tmp_path, tmp_path / "CamVid" / "valannot" / label.name, np.array(Image.open(label))


def of_street(root: Path) -> torch.Tensor:
    data = CamVid("val", [Semantic("semantic", classes=CamVid.default_classes()["semantic"])], root=str(root))
    return data[0].annotations["semantic"].as_subclass(torch.Tensor)


@some(40)
@given(shift=st.integers(-255, 255))
@example(shift=0)
@example(shift=1)
def test_shifted_ids_are_refused_where_one_is_no_class(shift: int, street: tuple[Path, Path, np.ndarray]) -> None:
    """Ids that are all of other classes after the shift, such as those of a map of sky alone, cannot be told."""
    root, path, values = street
    shifted = (values.astype(int) + shift) % 256
    Image.fromarray(shifted.astype(np.uint8)).save(path)
    strays = {int(id): int((shifted == id).sum()) for id in np.unique(shifted) if id > 11}
    if not strays:
        assert np.array_equal(of_street(root).numpy(), np.where(shifted == 11, 255, shifted))
        return
    with pytest.raises(DataError, match=re.escape(f"{path}: found label id ")) as caught:
        of_street(root)
    named = re.findall(r"(\d+) \((\d+) pixels\)", str(caught.value))
    assert named
    assert {int(id): int(count) for id, count in named}.items() <= strays.items()
    # void is in every real map, so that no shift goes unseen
    assert shift == 0 or 11 in values


@some(30)
@given(shift=st.integers(1, 215))
def test_shifted_ids_of_rooms_are_refused(shift: int, real_data: Path, tmp_path: Path) -> None:
    source = smallest(real_data, CHECKED["nyuv2 labels"])
    values = np.array(Image.open(source))
    assume(values.max() + shift > 39)
    for name in ("nyu_images", "nyu_labels40"):
        (tmp_path / name).mkdir(exist_ok=True)
    shutil.copy(source.parent.parent / "nyu_images" / f"{source.stem}.jpg", tmp_path / "nyu_images")
    path = tmp_path / "nyu_labels40" / source.name
    Image.fromarray((values + np.uint8(shift)).astype(np.uint8)).save(path)
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text(source.stem)
    classes = NYUv2.default_classes({"root": str(tmp_path)})["semantic40"]
    data = NYUv2("test", [Semantic("semantic", classes=classes)], root=str(tmp_path))
    with pytest.raises(DataError, match=re.escape(f"{path}: found label id ")):
        data[0]


@some(20)
@given(rows=st.integers(1, 720), columns=st.integers(1, 960))
def test_labels_of_another_size_are_refused(rows: int, columns: int, street: tuple[Path, Path, np.ndarray]) -> None:
    root, path, values = street
    assume((rows, columns) != values.shape)
    Image.fromarray(values).resize((columns, rows), Image.Resampling.NEAREST).save(path)
    height, width = values.shape
    with pytest.raises(DataError, match=rf"label is {columns}x{rows} but its image .* is {width}x{height}") as caught:
        of_street(root)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["16-bit", "palette", "grey RGB", "RGBA", "int32 TIFF", "big-endian TIFF"])
def test_labels_in_another_kind_of_file_are_the_same(kind: str, street: tuple[Path, Path, np.ndarray]) -> None:
    root, path, values = street
    expected = of_street(root)
    if "TIFF" in kind:
        order = ">" if kind.startswith("big") else "<"
        tifffile.imwrite(path, values.astype(f"{order}i4"), byteorder=order)
    else:
        image = Image.fromarray(values.astype(np.uint16) if kind == "16-bit" else values)
        if kind == "palette":
            image.putpalette(bytes(range(255, -1, -1)) * 3)
        (image.convert(kind[-4:].strip()) if "RGB" in kind else image).save(path)
    assert torch.equal(of_street(root), expected)


def test_labels_of_one_bit_are_0_and_1(street: tuple[Path, Path, np.ndarray]) -> None:
    """Which classes the bit stood for is gone with the others."""
    root, path, values = street
    Image.fromarray(values > 3).save(path)
    assert torch.equal(of_street(root), torch.from_numpy((values > 3).astype(np.uint8)))


@pytest.mark.parametrize("kind", ["float TIFF", "stretched"])
def test_labels_that_another_kind_of_file_changed_are_refused(kind: str, street: tuple[Path, Path, np.ndarray]) -> None:
    root, path, values = street
    if kind == "float TIFF":
        tifffile.imwrite(path, values.astype(np.float32))
    else:  # as pictures for the eye are
        Image.fromarray((values * (255 // 11)).astype(np.uint8)).save(path)
    with pytest.raises(DataError, match=re.escape(str(path))):
        of_street(root)


def test_labels_that_a_jpeg_changed_are_told(street: tuple[Path, Path, np.ndarray]) -> None:
    """Not refused, for other values may be classes all the same."""
    root, path, values = street
    Image.fromarray(values).save(path, "JPEG", quality=20)
    task = Semantic("semantic", classes=CamVid.default_classes()["semantic"])
    (record,) = survey({"val": CamVid("val", [task], root=str(root))}, [task], 0)
    assert record.errors or "the label is a JPEG, whose compression changes values" in str(record.doubts)


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_swapped_channels_of_colours_are_refused_or_other_classes(
    order: tuple[int, int, int], real_data: Path, tmp_path: Path
) -> None:
    """Red is weed and green is crop in CWFID: with the two swapped nothing can tell; blue is of no class."""
    source = smallest(real_data, CHECKED["cwfid colours"])
    root, id = fields(real_data, tmp_path, source.name[:3])
    path = root / "annotations" / source.name
    colours = np.array(Image.open(source).convert("RGB"))
    assert colours[..., :2].any()
    swapped = colours[..., list(order)]
    Image.fromarray(swapped).save(path)
    data = CWFID("test", [Semantic("plants", classes=["soil", "crop", "weed"])], root=str(root))
    if (swapped[..., 2] > 0).any():
        with pytest.raises(DataError, match=r"found \(0, 0, 255\) on \d+ pixels.*colours") as caught:
            data[0]
        assert str(path) in str(caught.value)
        return
    soil = np.array(Image.open(root / "masks" / f"{id}_mask.png")).astype(bool)
    expected = np.where(swapped[..., 1] > 0, 1, np.where(swapped[..., 0] > 0, 2, np.where(soil, 0, 255)))
    assert np.array_equal(data[0].annotations["plants"].numpy(), expected)
