"""Files are made here, from arrays; those arrays are the oracle, and odd files are written byte by byte."""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from segweave import rasters
from segweave.errors import DataError
from segweave.palette import default_palette
from segweave.rasters import integer_bits, read_header, read_image, read_index, read_values

DATA = Path(os.environ.get("SEGWEAVE_DATA", Path(__file__).parents[1] / "../shared/data"))
READERS: list[Callable[[Path], object]] = [read_header, integer_bits, read_image, read_index, read_values]
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def noise(*shape: int, top: int = 255, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape, endpoint=True).astype(dtype)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def filtered(lines: list[bytes], step: int) -> bytes:
    """The five PNG filters in turn, each undone by the decoder from the bytes to the left and above."""
    out, above = b"", bytes(len(lines[0]))
    for number, line in enumerate(lines):
        row = bytearray()
        for i, byte in enumerate(line):
            left, corner = (line[i - step], above[i - step]) if i >= step else (0, 0)
            near = sorted((left, above[i], corner), key=lambda v: abs(left + above[i] - corner - v))[0]
            row.append((byte - (0, left, above[i], (left + above[i]) // 2, near)[number % 5]) % 256)
        out, above = out + bytes([number % 5]) + bytes(row), line
    return out


def png(
    values: np.ndarray, bits: int, kind: int, interlaced: bool = False, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of colour type `kind` (0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA) made from [H, W] or [H, W, C]."""
    values = values.reshape(*values.shape[:2], -1)
    step = max(values.shape[2] * bits // 8, 1)

    def pack(part: np.ndarray) -> bytes:
        places = np.arange(bits - 1, -1, -1)
        rows = (part.reshape(len(part), -1)[..., None].astype(np.int64) >> places & 1).reshape(len(part), -1)
        return filtered([np.packbits(row).tobytes() for row in rows], step)

    parts = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [values]
    pixels = zlib.compress(b"".join(pack(part) for part in parts if part.size))
    size = struct.pack(">II5B", values.shape[1], values.shape[0], bits, kind, 0, 0, interlaced)
    body = chunk(b"IHDR", size) + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(values: np.ndarray, order: str = "<", packed: bool = False, planar: bool = False, **tags: int) -> bytes:
    """An uncompressed or deflated TIFF of one strip (of one per channel where `planar`)."""
    height, width, channels = values.reshape(*values.shape[:2], -1).shape
    form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    planes = np.moveaxis(values, 2, 0) if planar else [values]
    strips = [plane.astype(values.dtype.newbyteorder(order)).tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    entries: list[tuple[int, str, list[int]]] = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [values.itemsize * 8] * channels),
        (259, "H", [8 if packed else 1]),
        (262, "H", [2 if channels > 1 else 1]),
        (273, "I", [8 + sum(map(len, strips[:i])) for i in range(len(strips))]),
        *([(274, "H", [tags["orientation"]])] if "orientation" in tags else []),
        (277, "H", [channels]),
        (278, "I", [height]),
        (279, "I", [len(strip) for strip in strips]),
        (284, "H", [2 if planar else 1]),
        *([(338, "H", [tags["extra"]])] if "extra" in tags else []),
        (339, "H", [form] * channels),
    ]
    data = b"".join(strips) + b"\0" * (sum(map(len, strips)) % 2)
    at = 8 + len(data)
    table, tail = struct.pack(order + "H", len(entries)), b""
    for tag, kind, numbers in entries:
        value = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        table += struct.pack(order + "HHI", tag, 3 if kind == "H" else 4, len(numbers))
        if len(value) > 4:
            table += struct.pack(order + "I", at + 2 + 12 * len(entries) + 4 + len(tail))
            tail += value + b"\0" * (len(value) % 2)
        else:
            table += value.ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", at)
    return start + data + table + bytes(4) + tail


def exif(orientation: int) -> bytes:
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Where the EXIF standard says that row 0 and column 0 of the stored pixels are."""
    if orientation > 4:
        values = values.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]


def store(folder: Path, data: bytes, name: str = "file.png") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_every_depth_is_read_as_stored(tmp_path: Path, bits: int, interlaced: bool) -> None:
    values = noise(11, 13, top=2**bits - 1, dtype=np.uint16)
    path = store(tmp_path, png(values, bits, 0, interlaced))
    index, (image, note) = read_index(path), read_image(path)
    np.testing.assert_array_equal(numbers(index), values)
    np.testing.assert_array_equal(numbers(read_values(path)), values.astype(np.float32))
    assert index.dtype == (torch.int32 if bits == 16 else torch.uint8)
    scaled = values if bits == 16 else values * (255 // (2**bits - 1))
    np.testing.assert_array_equal(numbers(image), np.stack([scaled] * 3))
    assert note == "grey repeated to 3 channels" + ("; 16-bit" if bits == 16 else "")
    assert integer_bits(path) == max(bits, 8)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("bits", "kind", "channels", "mode", "note"),
    [
        (8, 2, 3, "RGB", None),
        (16, 2, 3, "RGB;16", "16-bit"),
        (8, 6, 4, "RGBA", "RGBA: alpha dropped"),
        (16, 6, 4, "RGBA;16", "16-bit; RGBA: alpha dropped"),
        (8, 4, 2, "LA", "grey repeated to 3 channels; LA: alpha dropped"),
        (16, 4, 2, "LA;16", "grey repeated to 3 channels; 16-bit; LA: alpha dropped"),
    ],
)
def test_colour_png_is_exact(
    tmp_path: Path, bits: int, kind: int, channels: int, mode: str, note: str | None, interlaced: bool
) -> None:
    values = noise(10, 9, channels, top=2**bits - 1, dtype=np.uint16)
    path = store(tmp_path, png(values, bits, kind, interlaced))
    image, found = read_image(path)
    expected = values[..., :3] if channels > 2 else values[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(numbers(image), expected.transpose(2, 0, 1))
    assert image.dtype == (torch.uint8 if bits == 8 else torch.uint16)
    assert found == note
    header = read_header(path)
    assert (header.height, header.width, header.mode, header.rotated) == (10, 9, mode, False)
    assert integer_bits(path) == bits
    if channels == 2:
        np.testing.assert_array_equal(numbers(read_values(path)), values[..., 0].astype(np.float32))
        np.testing.assert_array_equal(numbers(read_index(path)), values[..., 0])
    else:
        with pytest.raises(DataError, match="three colour channels"):
            read_values(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_palette_png_keeps_indices(tmp_path: Path, bits: int, transparent: bool) -> None:
    values, colours = noise(9, 10, top=2**bits - 1), noise(2**bits, 3, seed=1)
    before = chunk(b"PLTE", colours.tobytes()) + (chunk(b"tRNS", b"\0\x80") if transparent else b"")
    path = store(tmp_path, png(values, bits, 3, before=before))
    np.testing.assert_array_equal(numbers(read_index(path)), values)
    np.testing.assert_array_equal(numbers(read_index(path, {(1, 2, 3): 4})), values)
    image, note = read_image(path)
    np.testing.assert_array_equal(numbers(image), colours[values].transpose(2, 0, 1))
    assert note == "palette converted to RGB"
    with pytest.raises(DataError, match="a palette"):
        read_values(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_grey_tiff_is_read_as_stored(tmp_path: Path, dtype: str, packed: bool, order: str) -> None:
    kind = np.dtype(dtype)
    values = (
        np.array([[0, 1, 2, 100], [3, 50, 7, 127]], kind) if kind.kind != "f" else np.array([[0.5, -2e9, 1e-3]], kind)
    )
    if kind.kind == "i":
        values[0, 1] = -3
    elif kind.kind == "u":
        values[0, 1] = np.iinfo(kind).max // 2 + 5
    path = store(tmp_path, tiff(values, order, packed), "file.tif")
    if dtype == "float64" or (dtype, order) == ("uint32", ">"):
        with pytest.raises(DataError, match="unknown pixel mode"):
            read_values(path)
        return
    result = numbers(read_values(path))
    np.testing.assert_array_equal(result, values.astype(np.float32))
    assert integer_bits(path) == (None if kind.kind == "f" else kind.itemsize * 8)
    assert read_header(path).height == len(values)
    if dtype == "uint32":
        with pytest.raises(DataError, match="values within 32 bits"):
            read_index(path)
    elif kind.kind == "f":
        with pytest.raises(DataError, match="floating point"):
            read_index(path)
        np.testing.assert_array_equal(numbers(read_image(path)[0]), np.stack([values.astype(np.float32)] * 3))
    else:
        np.testing.assert_array_equal(numbers(read_index(path)), values)
    if dtype in ("uint8", "uint16"):
        np.testing.assert_array_equal(numbers(read_image(path)[0]), np.stack([values] * 3))
    elif kind.kind in "iu":
        with pytest.raises(DataError, match=r"an image of u?int"):
            read_image(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("channels", "extra"), [(3, None), (4, 2)])
def test_16_bit_colour_tiff_is_exact(
    tmp_path: Path, order: str, packed: bool, channels: int, extra: int | None
) -> None:
    values = noise(7, 6, channels, top=65535, dtype=np.uint16)
    path = store(tmp_path, tiff(values, order, packed, **({} if extra is None else {"extra": extra})), "file.tif")
    image, note = read_image(path)
    np.testing.assert_array_equal(numbers(image), values[..., :3].transpose(2, 0, 1))
    assert note == ("16-bit" if channels == 3 else "16-bit; RGBA: alpha dropped")


@pytest.mark.parametrize("packed", [False, True])
def test_planar_tiff_is_exact_in_8_bits_and_refused_in_16(tmp_path: Path, packed: bool) -> None:
    values = noise(7, 6, 3)
    path = store(tmp_path, tiff(values, packed=packed, planar=True), "file.tif")
    np.testing.assert_array_equal(numbers(read_image(path)[0]), values.transpose(2, 0, 1))
    path = store(tmp_path, tiff(values.astype(np.uint16), packed=packed, planar=True), "file.tif")
    with pytest.raises(DataError, match="separate planes"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_images_and_masks_alike(tmp_path: Path, orientation: int) -> None:
    picture, mask, wide = noise(6, 4, 3), noise(6, 4), noise(6, 4, 3, top=65535, dtype=np.uint16)
    note = None if orientation == 1 else f"EXIF orientation {orientation} applied"
    tag = chunk(b"eXIf", exif(orientation))
    paths = [
        store(tmp_path, png(picture, 8, 2, before=tag), "before.png"),
        store(tmp_path, png(picture, 8, 2, after=tag), "after.png"),
        store(tmp_path, tiff(picture, orientation=orientation), "raw.tif"),
        store(tmp_path, tiff(picture, packed=True, orientation=orientation), "packed.tif"),
    ]
    for path in paths:
        image, found = read_image(path)
        expected = turned(picture, orientation)
        np.testing.assert_array_equal(numbers(image), expected.transpose(2, 0, 1))
        with Image.open(path) as opened:
            np.testing.assert_array_equal(np.array(ImageOps.exif_transpose(opened)), expected)
        assert found == note
        header = read_header(path)
        assert (header.height, header.width) == expected.shape[:2]
        assert header.rotated == (orientation != 1)
    for path in [
        store(tmp_path, png(mask, 8, 0, after=tag), "mask.png"),
        store(tmp_path, tiff(mask, orientation=orientation), "mask.tif"),
    ]:
        np.testing.assert_array_equal(numbers(read_index(path)), turned(mask, orientation))
        np.testing.assert_array_equal(numbers(read_values(path)), turned(mask, orientation))
    for path in [
        store(tmp_path, png(wide, 16, 2, before=tag), "wide.png"),
        store(tmp_path, tiff(wide, orientation=orientation), "wide.tif"),
    ]:
        np.testing.assert_array_equal(numbers(read_image(path)[0]), turned(wide, orientation).transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_jpeg_equals_the_unrotated_one_turned(tmp_path: Path, orientation: int) -> None:
    smooth = np.add.outer(np.arange(24) * 8, np.arange(16) * 3).astype(np.uint8)
    picture = Image.fromarray(np.stack([smooth, smooth[::-1], smooth.T.repeat(2, 0)[:24, :16]], axis=2))
    tags = Image.Exif()
    tags[274] = orientation
    picture.save(tmp_path / "plain.jpg")
    picture.save(tmp_path / "tagged.JPG", exif=tags)
    plain, (image, note) = read_image(tmp_path / "plain.jpg")[0], read_image(tmp_path / "tagged.JPG")
    np.testing.assert_array_equal(numbers(image.permute(1, 2, 0)), turned(numbers(plain.permute(1, 2, 0)), orientation))
    assert (note is None) == (orientation == 1)
    assert read_header(tmp_path / "tagged.JPG").rotated == (orientation != 1)


def test_cmyk_is_converted_and_adobe_inversion_undone(tmp_path: Path) -> None:
    inks = noise(8, 8, 4)
    Image.frombytes("CMYK", (8, 8), inks.tobytes()).save(tmp_path / "inks.tif")
    image, note = read_image(tmp_path / "inks.tif")
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.abs(numbers(image).transpose(1, 2, 0) - expected).max() <= 1
    assert note == "CMYK converted to RGB"
    Image.new("CMYK", (16, 16), (200, 40, 0, 20)).save(tmp_path / "inks.jpg", quality=95)
    image, note = read_image(tmp_path / "inks.jpg")
    flat = torch.tensor([55 * 235 / 255, 215 * 235 / 255, 235.0])[:, None, None]
    assert (image.float() - flat).abs().max() <= 3
    assert note == "CMYK converted to RGB"


@pytest.mark.parametrize("suffix", ["gif", "bmp", "tif", "png"])
def test_palette_of_other_formats(tmp_path: Path, suffix: str) -> None:
    values, colours = noise(9, 12, top=200), noise(256, 3, seed=1)
    picture = Image.fromarray(values)
    picture.putpalette(colours.tobytes())
    other = Image.fromarray(255 - values)
    more = {"save_all": True, "append_images": [other]} if suffix in ("gif", "tif") else {}
    picture.save(tmp_path / f"mask.{suffix}", **({"optimize": False} if suffix == "gif" else {}), **more)
    path = tmp_path / f"mask.{suffix}"
    image, note = read_image(path)
    np.testing.assert_array_equal(numbers(image), colours[values].transpose(2, 0, 1))
    assert note == "palette converted to RGB"
    if suffix != "gif":
        np.testing.assert_array_equal(numbers(read_index(path)), values)
    else:
        with Image.open(path) as opened:
            np.testing.assert_array_equal(numbers(read_index(path)), np.array(opened))


def test_gif_indices_of_a_dense_palette(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(values)
    picture.putpalette(noise(256, 3, seed=1).tobytes())
    picture.save(tmp_path / "mask.gif")
    np.testing.assert_array_equal(numbers(read_index(tmp_path / "mask.gif")), values)


def test_lossless_webp_and_bmp_are_exact(tmp_path: Path) -> None:
    values = noise(9, 12, 3)
    Image.fromarray(values).save(tmp_path / "a.webp", lossless=True)
    Image.fromarray(values).save(tmp_path / "a.bmp")
    for path in (tmp_path / "a.webp", tmp_path / "a.bmp"):
        np.testing.assert_array_equal(numbers(read_image(path)[0]), values.transpose(2, 0, 1))
        assert (read_header(path).height, read_header(path).width) == (9, 12)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", ">u2", "int64", "float16", ">f4", "float64"])
@pytest.mark.parametrize("layout", ["plane", "first", "last", "column-major"])
def test_npy_planes(tmp_path: Path, dtype: str, layout: str) -> None:
    values = noise(5, 7, top=1 if dtype == "bool" else 100, dtype=np.int64).astype(dtype)
    shaped = {"first": values[None], "last": values[..., None], "column-major": np.asfortranarray(values)}
    path = tmp_path / "PLANE.NPY"
    with path.open("wb") as file:
        np.save(file, shaped.get(layout, values))
    np.testing.assert_array_equal(numbers(read_values(path)), values.astype(np.float32))
    header = read_header(path)
    assert (header.height, header.width, header.mode) == (5, 7, values.dtype.name)
    if values.dtype.kind == "f":
        assert integer_bits(path) is None
        assert read_image(path)[0].dtype == torch.float32
        with pytest.raises(DataError, match="floating point"):
            read_index(path)
    else:
        index = read_index(path)
        np.testing.assert_array_equal(numbers(index), values)
        assert index.dtype == (torch.uint8 if dtype in ("bool", "uint8") else torch.int32)
        assert integer_bits(path) == min(8 * values.itemsize, 32)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_npy_colour(tmp_path: Path, dtype: str, channels: int) -> None:
    values = noise(5, 7, channels, dtype=np.int64).astype(dtype)
    for array in (values, values.transpose(2, 0, 1)):
        np.save(tmp_path / "a.npy", array)
        image, note = read_image(tmp_path / "a.npy")
        np.testing.assert_array_equal(numbers(image), values[..., :3].transpose(2, 0, 1))
        assert image.dtype == getattr(torch, dtype)
        assert ("alpha dropped" in (note or "")) == (channels == 4)
        assert read_header(tmp_path / "a.npy").width == 7


def test_boolean_npy_image_is_black_and_white(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[True, False]]))
    assert read_image(tmp_path / "a.npy")[0][0].tolist() == [[255, 0]]


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_become_ids_through_the_table(tmp_path: Path, alpha: bool) -> None:
    table = {(0, 0, 0): 255, (0, 255, 0): 1, (255, 0, 0): 2, (255, 255, 255): 0}
    ids = np.array([255, 1, 2, 0])[noise(8, 9, top=3)]
    colours = np.array(list(table))[noise(8, 9, top=3)]
    picture = np.concatenate([colours, noise(8, 9, 1)], axis=2) if alpha else colours
    path = store(tmp_path, png(picture, 8, 6 if alpha else 2))
    index = read_index(path, table)
    np.testing.assert_array_equal(numbers(index), ids)
    assert index.dtype == torch.uint8
    far = {colour: index + 1000 for colour, index in table.items()}
    np.testing.assert_array_equal(numbers(read_index(path, far)), ids + 1000)


def test_unmapped_colours_are_named_with_their_counts(tmp_path: Path) -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[0] = (1, 2, 3)
    picture[1, :2], picture[2, 0], picture[2, 1] = (200, 0, 9), (9, 9, 8), (9, 9, 7)
    path = store(tmp_path, png(picture, 8, 2))
    with pytest.raises(DataError) as caught:
        read_index(path, {(0, 0, 0): 0})
    message = str(caught.value)
    assert "(1, 2, 3) on 5 pixels, (200, 0, 9) on 2 pixels, (9, 9, 8) on 1 pixels and 1 more colours" in message
    assert str(path) in message
    assert "`colours:`" in message
    with pytest.raises(DataError, match=r"\(0, 0, 0\) on 11 pixels.*expected a grey or palette mask"):
        read_index(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_equal_channels_are_read_as_grey(tmp_path: Path, bits: int) -> None:
    values = noise(6, 5, top=2**bits - 1, dtype=np.uint16)
    path = store(tmp_path, png(np.stack([values] * 3, axis=2), bits, 2))
    np.testing.assert_array_equal(numbers(read_index(path)), values)


def test_grey_jpeg_mask_is_read(tmp_path: Path) -> None:
    Image.new("L", (16, 8), 7).save(tmp_path / "mask.jpg")
    assert read_index(tmp_path / "mask.jpg").unique().tolist() == [7]


def bomb(side: int) -> bytes:
    size = struct.pack(">II5B", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def huge_npy(descr: str, shape: str) -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.png", bomb(16384), "268435456 pixels; expected at least 1 and at most 178956970"),
        ("a.png", bomb(0), "0 x 0|unreadable"),
        (
            "a.tif",
            tiff(np.zeros((2, 2), np.uint8)).replace(struct.pack("<I", 2) * 1, struct.pack("<I", 50000)),
            "a.tif",
        ),
        ("a.npy", huge_npy("'|u1'", "(20000, 20000)"), "unreadable|20000"),
        ("a.npy", huge_npy("'<f8'", f"({2**62}, {2**62})"), "unreadable"),
        ("a.npy", huge_npy("'|O'", "(2, 2)") + bytes(64), "unreadable|object"),
        ("a.npy", huge_npy("'|u1'", "(4,)") + bytes(64), "shape"),
        ("a.npy", huge_npy("'|u1'", "(5, 4, 2)") + bytes(64), "shape"),
        ("a.npy", huge_npy("'|u1'", "(4, 4, 3, 1)") + bytes(64), "shape"),
        ("a.npy", huge_npy("'<c8'", "(2, 2)") + bytes(64), "complex"),
        ("a.npy", huge_npy("'|u1'", "(4, 4)") + bytes(15), "unreadable"),
        ("a.npy", b"", "unreadable"),
        ("a.npy", b"\x80\x04cos\nsystem\n", "unreadable"),
        ("a.png", b"", "an empty file"),
        ("a.png", b"not a picture at all", "a file that starts with b'not a pictur'"),
        ("a.jpg", b"RIFF\0\0\0\0WAVEfmt ", "a file that starts with"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "unreadable"),
        ("a.jpg", b"\xff\xd8\xff", "unreadable"),
        ("a.gif", b"GIF89a\1", "unreadable"),
        ("a.bmp", b"BM12", "unreadable"),
        ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 ", "unreadable"),
        ("a.tif", b"II*\0\x08\0\0\0", "unreadable"),
    ],
)
def test_bad_files_are_data_errors_without_memory_or_warnings(
    tmp_path: Path, name: str, data: bytes, match: str, reader: Callable[[Path], object]
) -> None:
    path = store(tmp_path, data, name)
    tracemalloc.start()
    with pytest.raises(DataError, match=match) as caught:
        reader(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert str(caught.value).startswith(f"{path}: found ")
    assert str(caught.value).count("\n") == 0


def test_the_limit_is_ours_and_not_pillows(tmp_path: Path) -> None:
    path = store(tmp_path, bomb(10000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_header(path).height == 10000
        assert read_header(store(tmp_path, bomb(30000), "b.png"), max_pixels=10**9).width == 30000
    small = store(tmp_path, png(noise(4, 4), 8, 0), "small.png")
    for reader in READERS:
        with pytest.raises(DataError, match="at most 15"):
            reader(small, max_pixels=15)  # pyright: ignore[reportCallIssue]
        reader(small, max_pixels=16)  # pyright: ignore[reportCallIssue]


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [4, 10])
@pytest.mark.parametrize("packed", [False, True])
def test_pillows_limit_neither_warns_nor_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, packed: bool
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    grey, colour, wide = noise(side, side), noise(side, side, 3), noise(side, side, 3, top=65535, dtype=np.uint16)
    for values in (grey, colour, wide):
        path = store(tmp_path, tiff(values, packed=packed, orientation=6), "a.tif")
        expected = values[..., None].repeat(3, axis=2) if values.ndim == 2 else values
        np.testing.assert_array_equal(numbers(read_image(path)[0]), turned(expected, 6).transpose(2, 0, 1))
    path = store(tmp_path, png(wide, 16, 2))
    np.testing.assert_array_equal(numbers(read_image(path)[0]), wide.transpose(2, 0, 1))
    for suffix in ("png", "bmp", "gif", "jpg"):
        Image.fromarray(grey).save(tmp_path / f"b.{suffix}")
        assert read_index(tmp_path / f"b.{suffix}").shape == (side, side)


def test_a_header_allocates_nothing_even_where_exif_may_follow_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    Image.new("L", (4000, 4000)).save(path)
    tracemalloc.start()
    assert read_header(path) == rasters.Header(4000, 4000, "L", rotated=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "gif", "webp"])
def test_truncated_files_are_data_errors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    whole = path.read_bytes()
    for part in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DataError, match="unreadable"):
            read_image(path)


def test_a_damaged_deflated_tiff_is_a_data_error(tmp_path: Path) -> None:
    whole = tiff(noise(32, 32), packed=True)
    path = store(tmp_path, whole.replace(whole[200:700], bytes(500)), "a.tif")
    with pytest.raises(DataError, match="unreadable"):
        read_index(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_single_band_tiff_whose_planes_lie_apart(tmp_path: Path, dtype: str, order: str) -> None:
    values = noise(6, 5, 1, top=100).astype(dtype)
    path = store(tmp_path, tiff(values, order, planar=True), "gdal.tif")
    np.testing.assert_array_equal(numbers(read_values(path)), values[..., 0].astype(np.float32))


def test_missing_files_and_folders_are_data_errors(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none.png", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "x.npy", "No such"),
    ):
        for reader in READERS:
            with pytest.raises(DataError, match=reason):
                reader(path)


@pytest.mark.parametrize("name", ["späce and ünï 雪.PNG", "-dash.png", "UPPER.JPG", "no_suffix", "a" * 251 + ".png"])
def test_odd_names_and_new_folders(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = torch.from_numpy(noise(3, 4))
    for path in (Path(name), tmp_path / "new" / "földer" / name):
        rasters.write_index(labels, path, [])
        assert torch.equal(read_index(path), labels)
        assert [child.name for child in path.absolute().parent.iterdir() if child.is_file()] == [name]


planes = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


@settings(max_examples=40, deadline=None)
@given(values=planes, kind=st.sampled_from([np.uint8, np.int32, np.int64]), colours=st.integers(0, 256))
def test_written_indices_come_back(values: np.ndarray, kind: type, colours: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mask.png")
        palette = default_palette(colours)
        rasters.write_index(torch.from_numpy(values.astype(kind)), path, palette)
        assert torch.equal(read_index(path), torch.from_numpy(values))
        with Image.open(path) as opened:
            assert opened.mode == "P"
            assert (opened.getpalette() or [])[: 3 * colours] == list(itertools.chain(*palette))


@settings(max_examples=40, deadline=None)
@given(
    metres=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.floats(0, 65.5, width=32)
    )
)
def test_written_depth_comes_back_within_half_a_millimetre(metres: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "depth.png")
        rasters.write_depth(torch.from_numpy(metres), path)
        assert np.abs(numbers(read_values(path)) / 1000.0 - metres.astype(np.float64)).max() <= 0.0005 + 1e-6
        assert integer_bits(path) == 16


def test_depth_without_a_value_is_zero_and_far_depth_is_clipped(tmp_path: Path) -> None:
    metres = torch.tensor([[float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1.2344, 1.2346, 65.6, 1e30]])
    rasters.write_depth(metres, tmp_path / "depth.png")
    assert read_values(tmp_path / "depth.png").tolist() == [[0, 0, 0, 0, 0, 1234, 1235, 65535, 65535]]


def test_written_images_come_back(tmp_path: Path) -> None:
    image = torch.from_numpy(noise(3, 8, 9))
    rasters.write_image(image, tmp_path / "a.PNG")
    found, note = read_image(tmp_path / "a.PNG")
    assert torch.equal(found, image)
    assert note is None
    flat = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None].expand(3, 16, 16)
    rasters.write_image(flat, tmp_path / "a.jpeg")
    assert (read_image(tmp_path / "a.jpeg")[0].int() - flat.int()).abs().max() <= 2
    with pytest.raises(DataError, match=r"suffix '\.tif'"):
        rasters.write_image(image, tmp_path / "a.tif")


def test_failed_writes_leave_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mask.png"
    labels = torch.from_numpy(noise(3, 4))
    rasters.write_index(labels, path, [])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match="No space left on device"):
        rasters.write_index(labels + 1, path, [])
    monkeypatch.undo()
    assert torch.equal(read_index(path), labels)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match="cannot be written"):
        rasters.write_index(labels, path / "below-a-file.png", [])


@pytest.mark.parametrize(("value", "colours"), [(-1, 2), (256, 2), (0, 257)])
def test_indices_that_a_palette_cannot_hold_are_refused(tmp_path: Path, value: int, colours: int) -> None:
    with pytest.raises(DataError, match=r"expected indices 0\.\.255"):
        rasters.write_index(torch.tensor([[value]]), tmp_path / "a.png", [(0, 0, 0)] * colours)
    assert not list(tmp_path.iterdir())


def test_default_palette_is_distinct_and_a_shorter_one_begins_a_longer_one() -> None:
    palette = default_palette(256)
    assert len(set(palette)) == 256
    assert palette == default_palette(256)
    assert all(default_palette(count) == palette[:count] for count in (0, 1, 5, 20, 255))
    assert default_palette(300)[256:] == palette[:44]
    assert all(0 <= value <= 255 for colour in palette for value in colour)
    first = np.array(palette[:12]) @ (0.3, 0.59, 0.11)
    blue = np.array(palette[:12]) @ (-0.25, -0.25, 0.5)
    gaps = np.hypot(first[:, None] - first, blue[:, None] - blue)[np.triu_indices(12, 1)]
    assert gaps.min() > 5, "two of the first colours differ in red against green alone"


def real(pattern: str) -> list[Path]:
    if not DATA.is_dir():
        pytest.skip(f"no real data in {DATA}: set SEGWEAVE_DATA")
    if not (paths := sorted(DATA.glob(pattern))[:3]):
        pytest.skip(f"no {pattern} in {DATA}")
    return paths


@pytest.mark.parametrize(
    ("pattern", "note"),
    [
        ("camvid/CamVid/train/*.png", None),
        ("nyuv2/data/nyu_images/*.jpg", None),
        ("cwfid/images/*.png", None),
        ("kvasir_jpegmasks/Kvasir-SEG/images/*.jpg", None),
        ("dsb2018/stage1_train/*/images/*.png", "RGBA: alpha dropped"),
    ],
)
def test_real_images_equal_an_independent_decoder(pattern: str, note: str | None) -> None:
    io = pytest.importorskip("torchvision.io")
    for path in real(pattern):
        image, found = read_image(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            expected = io.decode_image(str(path))[:3]
        assert torch.equal(image, expected)
        assert found == note
        header = read_header(path)
        assert (header.height, header.width) == tuple(image.shape[1:])


def test_real_masks_and_depth() -> None:
    for path in real("camvid/CamVid/trainannot/*.png"):
        assert set(read_index(path).unique().tolist()) <= set(range(12))
    for path in real("nyuv2/data/nyu_labels40/*.png"):
        assert set(read_index(path).unique().tolist()) <= set(range(40))
    for path in real("nyuv2/data/nyu_depths/*.png"):
        depth = read_values(path)
        assert depth.min() / 25.5 > 0.7
        assert depth.max() <= 255
    for path in real("cwfid/masks/*.png"):
        assert read_index(path).unique().tolist() == [0, 1]
        assert read_header(path).mode == "1"
    for path in real("cwfid/annotations/*.png"):
        ids = read_index(path, {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2})
        assert set(ids.unique().tolist()) <= {0, 1, 2}
        with pytest.raises(DataError, match="colours:"):
            read_index(path, {(0, 0, 0): 0})
    for path in real("kvasir_jpegmasks/Kvasir-SEG/masks/*.jpg"):
        assert len(read_index(path).unique()) > 2


def test_real_geotiff_keeps_16_bits() -> None:
    (path,) = real("spacenet_sample/solaris/data/sample_geotiff.tif")
    image, note = read_image(path)
    assert image.dtype == torch.uint16
    assert image.int().max() > 255
    assert note == "grey repeated to 3 channels; 16-bit"
    assert torch.equal(read_values(path), image[0].float())
