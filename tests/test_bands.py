"""Images of any bands from their files; tifffile and imagecodecs, which share no code with Pillow, write the files."""

from __future__ import annotations

import tempfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from segweave.errors import DataError, UnreadableError
from segweave.rasters import read_image

KINDS = ("uint8", "uint16", "float32")


def noise(height: int, width: int, bands: int, kind: str, seed: int = 0) -> np.ndarray:
    """[H, W, C]; floats in a range of their own."""
    random = np.random.default_rng(seed)
    if kind == "float32":
        return random.normal(280, 15, (height, width, bands)).astype(np.float32)
    return random.integers(0, np.iinfo(kind).max, (height, width, bands), endpoint=True).astype(kind)


def write(path: Path, values: np.ndarray, planar: bool = False, **options: Any) -> Path:
    """A TIFF of [H, W, C]."""
    pixels, layout = (np.moveaxis(values, 2, 0), "separate") if planar else (values, "contig")
    if values.shape[2] == 1:
        pixels, layout = values[..., 0], None
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", "planarconfig": layout, **options})
    return path


def read(path: Path, bands: int | list[int]) -> np.ndarray:
    return read_image(path, bands=bands)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("bands", [1, 13])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("tiled", [False, True], ids=["strips", "tiles"])
@pytest.mark.parametrize(
    ("compression", "predictor"),
    [(None, False), ("deflate", False), ("lzw", False), ("lzw", True), ("deflate", True), ("zstd", True)],
)
def test_every_layout_of_tiff_is_exact(
    tmp_path: Path, bands: int, kind: str, planar: bool, tiled: bool, compression: str | None, predictor: bool
) -> None:
    values = noise(37, 50, bands, kind)
    options: dict[str, Any] = {"tile": (16, 32)} if tiled else {"rowsperstrip": 8}
    path = write(tmp_path / "a.tif", values, planar, compression=compression, predictor=predictor, **options)
    found = read(path, bands)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compression", [None, "packbits", "lzma", "lzw"])
@pytest.mark.parametrize("kind", KINDS)
def test_byte_orders_and_bigtiff(tmp_path: Path, order: str, big: bool, compression: str | None, kind: str) -> None:
    values = noise(20, 31, 5, kind)
    predictor = compression == "lzw"
    path = write(tmp_path / "a.tif", values, byteorder=order, bigtiff=big, compression=compression, predictor=predictor)
    if big and order == ">":
        with pytest.raises(UnreadableError, match="a BigTIFF of big-endian numbers"):
            read(path, 5)
        return
    np.testing.assert_array_equal(read(path, 5), values)


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_other_floats_become_float32(tmp_path: Path, kind: str) -> None:
    values = noise(8, 9, 4, "float32").astype(kind)
    assert read(write(tmp_path / "a.tif", values), 4).dtype == np.float32
    np.testing.assert_array_equal(read(tmp_path / "a.tif", 4), values.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    values=st.sampled_from(KINDS).flatmap(
        lambda kind: hnp.arrays(
            kind,
            st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 14)),
            elements=None if kind != "float32" else st.floats(-1e6, 1e6, width=32),
        )
    ),
    planar=st.booleans(),
    options=st.sampled_from([{}, {"compression": "deflate", "predictor": True}, {"tile": (16, 16)}]),
)
def test_written_rasters_come_back(values: np.ndarray, planar: bool, options: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.tif", values, planar, **options)
        np.testing.assert_array_equal(read(path, values.shape[2]), values)


def test_a_list_chooses_and_orders_bands_from_one(tmp_path: Path) -> None:
    values = noise(12, 10, 8, "uint16")
    np.save(tmp_path / "a.npy", values)
    for path in (write(tmp_path / "a.tif", values), write(tmp_path / "b.tif", values, planar=True), tmp_path / "a.npy"):
        np.testing.assert_array_equal(read(path, [4, 3, 2, 8, 8]), values[..., [3, 2, 1, 7, 7]])
        assert read_image(path, bands=[1])[1] == "16-bit"


@pytest.mark.parametrize("kind", KINDS)
def test_npy_of_either_order_of_axes(tmp_path: Path, kind: str) -> None:
    for bands, height, width in ((13, 20, 30), (4, 4, 9), (1, 7, 5), (6, 8, 7)):
        values = noise(height, width, bands, kind)
        np.save(tmp_path / "last.npy", values)
        np.save(tmp_path / "first.npy", np.moveaxis(values, 2, 0))
        np.testing.assert_array_equal(read(tmp_path / "last.npy", bands), values)
        if height != bands:  # [4, 4, 9] says itself that its last axis is not the one of 4
            np.testing.assert_array_equal(read(tmp_path / "first.npy", bands), values)
    np.save(tmp_path / "plain.npy", values[..., 0])
    np.testing.assert_array_equal(read(tmp_path / "plain.npy", 1), values[..., :1])


def test_other_formats_have_bands_too(tmp_path: Path) -> None:
    values = noise(9, 7, 4, "uint8")
    Image.fromarray(values).save(tmp_path / "rgbn.png")
    np.testing.assert_array_equal(read(tmp_path / "rgbn.png", 4), values)
    np.testing.assert_array_equal(read(tmp_path / "rgbn.png", 3), values[..., :3])
    np.testing.assert_array_equal(read(tmp_path / "rgbn.png", [2]), values[..., 1:2])
    Image.fromarray(values[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read(tmp_path / "grey.png", 1), values[..., :1])
    Image.fromarray(values[..., 0] > 128).save(tmp_path / "two.png")
    np.testing.assert_array_equal(read(tmp_path / "two.png", 1), (values[..., :1] > 128) * np.uint8(255))


def test_without_the_option_photographs_are_read_as_before_and_others_refused(tmp_path: Path) -> None:
    for bands in (4, 8, 13):
        path = write(tmp_path / f"{bands}.tif", noise(8, 8, bands, "uint16"))
        with pytest.raises(DataError, match=r"\.tif: found \d+ bands beyond .*data\.bands: \[4, 3, 2\]"):
            read_image(path)
        np.save(tmp_path / "a.npy", noise(20, 20, bands, "uint8"))
    with pytest.raises(DataError, match=r"a\.npy: found .*data\.bands"):
        read_image(tmp_path / "a.npy")
    values = noise(8, 8, 4, "uint8")
    alpha = write(tmp_path / "alpha.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    assert read_image(alpha)[1] == "RGBA: alpha dropped"
    np.testing.assert_array_equal(read_image(alpha)[0].permute(1, 2, 0).numpy(), values[..., :3])
    np.testing.assert_array_equal(read(alpha, 3), values[..., :3])
    infrared = write(tmp_path / "infrared.tif", values, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(DataError, match="1 bands beyond"):
        read_image(infrared)


@pytest.mark.parametrize(
    ("bands", "says"), [(3, "found 4 bands; expected 3, as data.bands says"), ([5, 1], "expected band 5 of data.bands")]
)
def test_other_bands_than_asked_for_are_an_error(tmp_path: Path, bands: int | list[int], says: str) -> None:
    values = noise(8, 9, 4, "uint8")
    np.save(tmp_path / "a.npy", values)
    for path in (write(tmp_path / "a.tif", values), tmp_path / "a.npy"):
        with pytest.raises(DataError, match=rf"{path.name}: .*{says}"):
            read_image(path, bands=bands)


def test_signed_values_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((4, 4, 5), np.int16))
    with pytest.raises(DataError, match="an image of int16 values"):
        read_image(path, bands=5)


def test_pixels_without_data_become_the_mean_of_their_band(tmp_path: Path) -> None:
    values = noise(6, 6, 4, "float32")
    values[:2, :, 1], values[5, 5, 2], values[..., 3] = np.nan, np.inf, -9999.0
    path = write(tmp_path / "a.tif", values, extratags=[(42113, "s", 0, "-9999", True)])
    image, note = read_image(path, bands=4)
    found = image.permute(1, 2, 0).numpy()
    assert note == "pixels without data filled with the mean of their band"
    np.testing.assert_array_equal(found[..., 0], values[..., 0])
    np.testing.assert_array_equal(found[2:, :, 1], values[2:, :, 1])
    # one rounding to float32, 2^-24 relative
    np.testing.assert_allclose(found[:2, :, 1], values[2:, :, 1].mean(dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(found[5, 5, 2], values[..., 2][np.isfinite(values[..., 2])].mean(dtype=float), rtol=1e-7)
    assert (found[..., 3] == 0).all()


VRT = b'<VRTDataset rasterXSize="8"><SourceFilename>https://x</SourceFilename></VRTDataset>'
HOSTILE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",  # noqa: ARG005
    "no tags": lambda data: data[:8],
    "vrt": lambda data: VRT,  # noqa: ARG005
}


@pytest.mark.parametrize("harm", HOSTILE)
@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
def test_damaged_files_are_unreadable(tmp_path: Path, harm: str, compression: str | None) -> None:
    path = write(tmp_path / "a.tif", noise(40, 40, 6, "uint16"), compression=compression)
    path.write_bytes(HOSTILE[harm](path.read_bytes()))
    with pytest.raises(UnreadableError, match=r"a\.tif: found .*expected"):
        read_image(path, bands=6)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of tags that it leaves out
@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
def test_flipped_bits_never_crash(tmp_path: Path, compression: str | None) -> None:
    whole = bytearray(write(tmp_path / "a.tif", noise(9, 9, 5, "uint16"), compression=compression).read_bytes())
    random = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 3):
            data[place] ^= 1 << int(random.integers(8))
        (tmp_path / "b.tif").write_bytes(data)
        try:
            image, _ = read_image(tmp_path / "b.tif", bands=5, max_pixels=10_000)
        except DataError:
            continue
        assert image.shape[0] == 5


@pytest.mark.parametrize(("height", "width", "bands"), [(200_000, 200_000, 5), (10_000, 10_000, 60_000)])
def test_size_is_refused_before_memory_is_allocated(tmp_path: Path, height: int, width: int, bands: int) -> None:
    path = write(tmp_path / "a.tif", noise(4, 4, 13, "uint8"))
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag, value in (("ImageWidth", width), ("ImageLength", height), ("SamplesPerPixel", bands)):
            file.pages[0].tags[tag].overwrite(value)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.tif: found .*(pixels|values); expected"):
        read_image(path, bands=bands)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_deflate_bomb_takes_no_more_memory_than_its_tags_declare(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(4, 4, 5, "uint8"), compression="deflate")
    bomb = zlib.compress(bytes(2**28))
    data = path.read_bytes()
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["StripByteCounts"].overwrite(len(bomb))
        file.pages[0].tags["StripOffsets"].overwrite(len(data))
    path.write_bytes(path.read_bytes().ljust(len(data), b"\0") + bomb)
    tracemalloc.start()
    assert read(path, 5).tolist() == np.zeros((4, 4, 5)).tolist()
    assert tracemalloc.get_traced_memory()[1] < 2 * len(bomb) + 2**20
    tracemalloc.stop()


def test_real_satellite_tiles_agree_with_tifffile(real_data: Path) -> None:
    tiles = sorted((real_data / "spacenet_sample" / "solaris" / "data").glob("rastertile_test_expected/*.tif"))
    assert len(tiles) == 100
    for path in [*tiles[:8], *tiles[0].parents[1].glob("*input.tif")]:
        image = read_image(path, bands=1)[0]
        assert image.dtype == torch.uint16
        np.testing.assert_array_equal(image[0].numpy(), tifffile.imread(path))
        np.testing.assert_array_equal(image[0].numpy(), read_image(path)[0][2].numpy())
