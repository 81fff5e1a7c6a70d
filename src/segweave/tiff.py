"""TIFF of any number of bands: in strips or tiles, interleaved or plane by plane, classic or BigTIFF.

Pillow reads the tags, and its libtiff unpacks each strip or tile, handed over as a grey image of bytes: it never makes
more memory than the tags declare. What is left is done here: undoing the predictors (TIFF 6.0, section 14, and Adobe
Photoshop TIFF Technical Note 3) and putting the pieces together. What a file points to outside itself is not read.

Every function raises ValueError, or what Pillow raises, for a file that contradicts itself.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import IO, Any

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS, ORIENTATION, CHANNELS, PLANAR, SAMPLE_FORMAT = 256, 257, 258, 274, 277, 284, 339
_COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ROWS, _PREDICTOR, _EXTRA, _NODATA = 259, 262, 266, 278, 317, 338, 42113
_STRIPS, _TILES = (273, 279), (324, 325)
_TILE_WIDTH, _TILE_HEIGHT = 322, 323

_KINDS = {1: "u", 2: "i", 3: "f"}
_UNPACKED = 1
_CODECS = (_UNPACKED, 5, 8, 32773, 32946, 34925, 50000)
"""Codecs by which bytes stay bytes: none, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard."""
_GREY, _RGB = 1, 2
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}
"""Bands that a photometric interpretation needs, 1 for those not listed: RGB, CMYK, YCbCr, CIELab."""
_LARGEST_PIECE = 2**26
"""Bytes that a strip or tile may have at least, also of a smaller image."""


class Directory(TiffImageFile):
    """The tags of a file's first image, in `tag_v2`, also of one that Pillow has no mode for."""

    def _setup(self) -> None:
        self._mode, self._size = "L", (1, 1)


@dataclass(frozen=True)
class Layout:
    """How the pixels lie in a file.

    Args:
        height, width: as stored, before the orientation.
        dtype: of one value, in the file's byte order; None for one that is not whole bytes.
        plain: whether `read_bands` can read it: grey or RGB, values of whole bytes, and a codec that keeps bytes.
        alpha: whether the last band is transparency.
        planar: whether each band lies apart.
        piece: height and width of a strip or tile.
        tiled: whether the pieces at the border are whole, too.
        nodata: the value that GDAL says stands for "no data".
    """

    height: int
    width: int
    bands: int
    dtype: np.dtype | None
    plain: bool
    alpha: bool
    planar: bool
    piece: tuple[int, int]
    tiled: bool
    compression: int
    predictor: int
    orientation: int
    nodata: float | None
    offsets: Sequence[int]
    sizes: Sequence[int]


def read_layout(file: IO[bytes]) -> Layout:
    """The layout of a file's first image; nothing is allocated for pixels."""
    start = file.read(4)
    file.seek(0)
    if start == b"MM\0+":
        raise ValueError("a BigTIFF of big-endian numbers, whose tags Pillow does not read")
    image = Directory(file)
    tags: Mapping[int, Any] = image.tag_v2
    height, width, bands = int(tags[HEIGHT]), int(tags[WIDTH]), int(tags.get(CHANNELS, 1))
    bits, formats = set(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (1,)))
    tiled = _TILE_WIDTH in tags
    piece = (
        (int(tags[_TILE_HEIGHT]), int(tags[_TILE_WIDTH])) if tiled else (min(tags.get(_ROWS, height), height), width)
    )
    offsets, sizes = (tags[tag] for tag in (_TILES if tiled else _STRIPS))
    order = ">" if image.tag_v2.prefix == b"MM" else "<"
    dtype = _dtype(order, bits.pop(), formats.pop()) if len(bits) == len(formats) == 1 else None
    return Layout(
        height=height,
        width=width,
        bands=bands,
        dtype=dtype,
        plain=tags.get(_PHOTOMETRIC, _GREY) in (_GREY, _RGB)
        and tags.get(_COMPRESSION, _UNPACKED) in _CODECS
        and tags.get(_FILL_ORDER, 1) == 1
        and dtype is not None,
        alpha=tags.get(_EXTRA, (0,))[-1] in (1, 2),
        planar=tags.get(PLANAR, 1) == 2 and bands > 1,
        piece=piece,
        tiled=tiled,
        compression=tags.get(_COMPRESSION, _UNPACKED),
        predictor=tags.get(_PREDICTOR, 1),
        orientation=tags.get(ORIENTATION, 1),
        nodata=nodata(tags),
        offsets=offsets,
        sizes=sizes,
    )


def spare_bands(file: IO[bytes]) -> int:
    """How many bands a file has beyond those of its colours and one of transparency."""
    tags: Mapping[int, Any] = Directory(file).tag_v2
    spare = int(tags.get(CHANNELS, 1)) - _COLOURS.get(tags.get(_PHOTOMETRIC, _GREY), 1)
    # 0 says that the meaning of the band is not specified: of four bands it is as a rule the near infrared
    return max(0, spare) if spare != 1 or tags.get(_EXTRA) == (0,) else 0


def nodata(tags: Mapping[int, Any]) -> float | None:
    """The value that GDAL's tag says stands for "no data"; None without one, or where it is no number."""
    try:
        return float(str(tags.get(_NODATA, "")).strip("\0 "))
    except ValueError:
        return None


def read_bands(file: IO[bytes], layout: Layout, bands: Sequence[int]) -> np.ndarray:
    """Some bands, counted from 0, of a `plain` layout: [H, W, len(bands)] as stored, in the machine's byte order."""
    assert layout.dtype is not None
    tall, wide = layout.piece
    per_pixel = (1 if layout.planar else layout.bands) * layout.dtype.itemsize
    if min(tall, wide) < 1 or tall * wide * per_pixel > max(layout.height * layout.width * per_pixel, _LARGEST_PIECE):
        raise ValueError(f"pieces of {tall} x {wide} pixels")
    down, across = -(-layout.height // tall), -(-layout.width // wide)
    planes = layout.bands if layout.planar else 1
    if min(len(layout.offsets), len(layout.sizes)) < planes * down * across:
        raise ValueError(f"{len(layout.offsets)} pieces where {planes * down * across} make the image")
    pixels = np.empty((layout.height, layout.width, len(bands)), layout.dtype.newbyteorder("="))
    for place, band in enumerate(bands) if layout.planar else [(slice(None), 0)]:
        for row, column in product(range(down), range(across)):
            top, left = row * tall, column * wide
            rows = tall if layout.tiled else min(tall, layout.height - top)
            piece = _piece(file, layout, (band * down + row) * across + column, rows)
            piece = piece[: layout.height - top, : layout.width - left]
            window = pixels[top : top + tall, left : left + wide]
            window[..., place] = piece[..., 0] if layout.planar else piece[..., list(bands)]
    return pixels


def _dtype(order: str, bits: int, kind: int) -> np.dtype | None:
    known = (8, 16, 32, 64) if kind in (1, 2) else (16, 32, 64) if kind == 3 else ()
    return np.dtype(f"{order}{_KINDS[kind]}{bits // 8}") if bits in known else None


def _piece(file: IO[bytes], layout: Layout, index: int, rows: int) -> np.ndarray:
    """A strip or tile as [rows, columns, values per pixel]."""
    assert layout.dtype is not None
    shape = rows, layout.piece[1], 1 if layout.planar else layout.bands
    if layout.sizes[index] == 0:  # GDAL leaves out what is empty
        return np.zeros(shape, layout.dtype.newbyteorder("="))
    if layout.offsets[index] + layout.sizes[index] > file.seek(0, os.SEEK_END):
        raise ValueError(f"a piece of {layout.sizes[index]} bytes that goes on beyond the end of the file")
    file.seek(layout.offsets[index])
    packed = file.read(layout.sizes[index])
    length = shape[1] * shape[2] * layout.dtype.itemsize
    unpacked = packed if layout.compression == _UNPACKED else _unpack(packed, layout.compression, rows, length)
    if len(unpacked) < rows * length:
        raise ValueError(f"{len(unpacked)} bytes in a piece of {rows * length}")
    lines = np.frombuffer(unpacked, np.uint8, rows * length).reshape(rows, length)
    if layout.predictor == 3:
        return _undo_float_predictor(lines, layout.dtype, shape)
    values = lines.view(layout.dtype).astype(layout.dtype.newbyteorder("="), copy=False).reshape(shape)
    if layout.predictor == 1:
        return values
    if layout.predictor != 2:
        raise ValueError(f"predictor {layout.predictor}")
    whole = values.view(f"u{layout.dtype.itemsize}")
    return np.cumsum(whole, axis=1, dtype=whole.dtype).view(values.dtype)


def _undo_float_predictor(lines: np.ndarray, dtype: np.dtype, shape: tuple[int, int, int]) -> np.ndarray:
    """Bytes [rows, length], differences of neighbours, in a row all first bytes, the most significant, come first."""
    rows, columns, per_pixel = shape
    summed = np.cumsum(lines.reshape(rows, -1, per_pixel), axis=1, dtype=np.uint8)
    apart = summed.reshape(rows, dtype.itemsize, columns * per_pixel)
    together = np.ascontiguousarray(np.moveaxis(apart, 1, 2))
    return together.view(dtype.newbyteorder(">")).astype(dtype.newbyteorder("=")).reshape(shape)


def _unpack(packed: bytes, compression: int, rows: int, length: int) -> bytes:
    """`rows` times `length` bytes of a strip or tile, as an 8-bit grey TIFF of its own."""
    entries = (
        (WIDTH, length),
        (HEIGHT, rows),
        (BITS, 8),
        (_COMPRESSION, compression),
        (_PHOTOMETRIC, _GREY),
        (_STRIPS[0], 8),
        (CHANNELS, 1),
        (_ROWS, rows),
        (_STRIPS[1], len(packed)),
    )
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    start = b"II*\0" + struct.pack("<I", 8 + len(packed))
    image = TiffImageFile(io.BytesIO(start + packed + struct.pack("<H", len(entries)) + directory + bytes(4)))
    image.load()
    return image.tobytes()
