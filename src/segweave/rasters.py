"""Exact reading and writing of the field's image, label and depth files.

Pillow decodes, and libpng most PNG; both agree bit for bit with `torchvision.io`, whose decoders are deprecated since
torchvision 0.29. What Pillow would change is mended here: 16-bit colour of TIFF (cut to 8), 2- and 4-bit grey
(stretched to 0..255), EXIF behind the pixels, and a size limit of its own. The content decides the format, never the
suffix, except for `.npy`.

Bands beyond those of a photograph, which Pillow does not read from a TIFF, come by way of `tiff`.

Every reader raises `UnreadableError` for a file that is missing, damaged or of no known format (PNG, JPEG, TIFF, BMP,
GIF, WebP, `.npy`), `DataError` for more than `max_pixels` pixels, which the header tells before memory is allocated.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Integer, UInt8, UInt16
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from segweave.decoding import (
    TURNS,
    bad,
    decode,
    decode_bands,
    open_image,
    open_npy,
    orientation_of,
    rawmode,
    reading,
)
from segweave.errors import DataError

MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class Header:
    """What a file says before any pixel is decoded: its size AFTER the EXIF orientation, which is `rotated` unless 1.

    `mode` is Pillow's, with `;16` for 16-bit values (`RGB;16`); the numpy type (`float32`) for `.npy`.
    """

    height: int
    width: int
    mode: str
    rotated: bool


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Size and kind of a file from its header alone; no memory is allocated for pixels."""
    with reading(path) as file:
        if path.suffix.lower() == ".npy":
            array = open_npy(path, max_pixels)
            return Header(array.shape[0], array.shape[1], array.dtype.name, rotated=False)
        image, (height, width) = open_image(file, path, max_pixels)
        mode, raw = image.mode, rawmode(image)
        if ";16" in raw and ";16" not in mode:
            mode = "LA;16" if raw.startswith("LA") else f"{mode};16"
        orientation = orientation_of(image, file)
        size = (width, height) if TURNS.get(orientation, (0,))[0] else (height, width)
        return Header(*size, mode, orientation in TURNS)


def integer_bits(path: Path, max_pixels: int = MAX_PIXELS) -> int | None:
    """8 (also for fewer), 16 or 32 (also for more) bits per value, None for floating point; from the header alone."""
    mode = read_header(path, max_pixels).mode
    if path.suffix.lower() == ".npy":
        return None if mode.startswith("float") else min(8 * np.dtype(mode).itemsize, 32)
    return None if mode == "F" else 16 if ";16" in mode else 32 if mode == "I" else 8


def read_image(
    path: Path, max_pixels: int = MAX_PIXELS, bands: int | Sequence[int] | None = None
) -> tuple[UInt8[Tensor, "C H W"] | UInt16[Tensor, "C H W"] | Float32[Tensor, "C H W"], str | None]:
    """An upright image, and a note of what was converted on the way (None: nothing).

    uint8, or uint16 for 16-bit files: integers span the whole range of their type. float32 for float TIFF and `.npy`,
    in the file's own range. Signed and 32-bit integers are a DataError. The channels may lie last in memory.

    Args:
        path: the file; with `bands`, `.npy` holds [H, W], [H, W, C] or [C, H, W].
        max_pixels: at most; four times as many values.
        bands: None for a photograph: three channels, grey repeated, transparency dropped. A number: all bands of a file
            that has so many. A list: these bands in this order, from 1. Other bands in the file are a DataError. With a
            number or a list, float pixels without data (NaN, infinity, the value in GDAL's tag) are filled with the
            mean of the others of their band, or 0 where there are none.
    """
    raster = decode(path, max_pixels, photograph=True) if bands is None else decode_bands(path, max_pixels, bands)
    pixels, notes = raster.pixels, raster.notes
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise bad(path, f"an image of {pixels.dtype} values", "uint8, uint16 or float values", "Convert it to one.")
    if pixels.dtype == np.uint16:
        notes.insert(0, "16-bit")
    if bands is not None and pixels.dtype == np.float32 and _fill(pixels, raster.nodata):
        notes.append("pixels without data filled with the mean of their band")
    if raster.palette is not None:
        pixels = raster.palette[pixels]
        notes.insert(0, "palette converted to RGB")
    pixels = pixels if raster.top is None else pixels * np.uint8(255 // raster.top)
    if pixels.ndim == 3:
        return torch.from_numpy(pixels).permute(2, 0, 1), "; ".join(notes) or None
    return torch.from_numpy(pixels).repeat(3, 1, 1), "; ".join(["grey repeated to 3 channels", *notes])


def _fill(pixels: np.ndarray, nodata: float | None) -> bool:
    """Gives pixels [H, W, C] without data a value, in place; whether there were any."""
    missing = ~np.isfinite(pixels)
    if nodata is not None:
        missing |= pixels == np.float32(nodata)
    for band in np.flatnonzero(missing.any((0, 1))):
        values, gaps = pixels[..., band], missing[..., band]
        values[gaps] = 0 if gaps.all() else values[~gaps].mean(dtype=np.float64)
    return bool(missing.any())


def read_index(
    path: Path, colours: Mapping[tuple[int, int, int], int] | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[Tensor, "H W"] | Int32[Tensor, "H W"]:
    """An upright map of class indices as stored: uint8, or int32 where the file has signed or wider values.

    Grey of 1, 2 or 4 bits gives 0..1, 0..3 or 0..15; a palette gives its indices, never its colours. Colour files go
    through `colours` (RGB to id); without a table, three equal channels are read as grey. Alpha is dropped.
    Floating point values, values beyond int32 and colours that the table lacks are a DataError.
    """
    pixels = decode(path, max_pixels).pixels
    if pixels.ndim == 3:
        same = colours is None and bool((pixels == pixels[..., :1]).all())
        pixels = np.ascontiguousarray(pixels[..., 0]) if same else _map_colours(pixels, colours or {}, path)
    if pixels.dtype.kind == "f":
        raise bad(path, "floating point values", "integer class indices", "Save the mask as an 8- or 16-bit PNG.")
    if pixels.dtype == np.uint8:
        return torch.from_numpy(pixels)
    low, high = int(pixels.min()), int(pixels.max())
    if low < -(2**31) or high >= 2**31:
        raise bad(path, f"class indices {low}..{high}", "values within 32 bits", "Save the mask with small class ids.")
    return torch.from_numpy(pixels.astype(np.int32))


def read_values(path: Path, max_pixels: int = MAX_PIXELS) -> Float32[Tensor, "H W"]:
    """An upright map of real values as stored, not scaled; three channels or a palette are a DataError."""
    raster = decode(path, max_pixels)
    if raster.pixels.ndim == 3 or raster.palette is not None:
        found = "a palette" if raster.palette is not None else "three colour channels"
        raise bad(path, found, "one value per pixel", "Save the values as a 16-bit grey PNG, a float TIFF or .npy.")
    return torch.from_numpy(raster.pixels.astype(np.float32))


def read_vectors(path: Path, max_pixels: int = MAX_PIXELS) -> Float32[Tensor, "3 H W"]:
    """An upright map of vectors: floats as stored, integers v of 8 or 16 bits as `2 v / max - 1`, max 255 or 65535.

    RGB or `.npy`; other than three channels, and integers that are signed or wider, are a DataError.
    """
    pixels = decode(path, max_pixels).pixels
    if pixels.shape[2:] != (3,):
        raise bad(path, "other than three channels", "x, y and z per pixel", "Save them as [H, W, 3] with numpy.save.")
    if pixels.dtype in (np.uint8, np.uint16):
        pixels = pixels.astype(np.float32) * 2 / np.iinfo(pixels.dtype).max - 1
    elif pixels.dtype != np.float32:
        raise bad(path, f"vectors of {pixels.dtype} values", "floats, uint8 or uint16", "Save them as floats.")
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def write_index(labels: Integer[Tensor, "H W"], path: Path, palette: Sequence[tuple[int, int, int]]) -> None:
    """Write class indices exactly, as a palette PNG; `palette` is padded with black to 256 colours.

    Indices beyond 0..255, more than 256 colours and a file that cannot be written are a DataError.
    """
    array = labels.detach().cpu().numpy()
    if array.min() < 0 or array.max() > 255 or len(palette) > 256:
        found = f"indices {array.min()}..{array.max()} and {len(palette)} colours"
        raise bad(path, found, "indices 0..255 and at most 256 colours", "A palette PNG cannot hold more classes.")
    image = Image.fromarray(array.astype(np.uint8))
    # Pillow packs the pixels into the bits that the palette needs, so a short palette would cut high indices.
    image.putpalette(bytes(value for colour in palette for value in colour).ljust(768, b"\0"))
    _write(path, image, "PNG")


def write_depth(metres: Float[Tensor, "H W"], path: Path) -> None:
    """Write a depth map in metres as a 16-bit PNG in millimetres, rounded to nearest and clipped at 65.535 m.

    0 means no depth: it stands for NaN, infinite and negative values too. Failure to write is a DataError. A text chunk
    of the file states the unit, which `in_millimetres` finds.
    """
    millimetres = metres.detach().cpu().double().nan_to_num(0, 0, 0).mul(1000).round().clamp(0, 65535)
    unit = PngInfo()
    unit.add_text("units_per_metre", "1000")
    _write(path, Image.fromarray(millimetres.numpy().astype(np.uint16)), "PNG", pnginfo=unit)


def write_vectors(vectors: Float[Tensor, "3 H W"], path: Path) -> None:
    """Write a map of vectors exactly, as `.npy` of float32 [H, W, 3]. Failure to write is a DataError."""
    array = vectors.detach().cpu().float().permute(1, 2, 0).contiguous().numpy()
    _place(path, lambda file: np.save(file, array))


def in_millimetres(path: Path) -> bool:
    """Whether a depth map says of itself that it holds millimetres, as those of `write_depth` do."""
    with reading(path) as file:
        return b"tEXtunits_per_metre\x001000" in file.read(256)


def write_image(image: UInt8[Tensor, "3 H W"], path: Path) -> None:
    """Write an RGB image as its suffix says: `.png` (exact), `.jpg` or `.jpeg` (quality 95); another is a DataError."""
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise bad(path, f"the suffix {path.suffix!r}", ".png, .jpg or .jpeg", "Name the output accordingly.")
    _write(path, Image.fromarray(image.detach().cpu().permute(1, 2, 0).contiguous().numpy()), kind)


def _map_colours(pixels: np.ndarray, colours: Mapping[tuple[int, int, int], int], path: Path) -> np.ndarray:
    if pixels.dtype != np.uint8:
        raise bad(path, f"colours of {pixels.dtype} values", "an 8-bit colour mask", "Save it as an 8-bit PNG.")
    codes = pixels[..., 0].astype(np.int32) << 16 | pixels[..., 1].astype(np.int32) << 8 | pixels[..., 2]
    table = sorted((red << 16 | green << 8 | blue, index) for (red, green, blue), index in colours.items())
    # The last entry is no colour, so that an empty table and a code beyond all others need no case of their own.
    known = np.array([code for code, _ in table] + [1 << 24], dtype=np.int32)
    ids = np.array([index for _, index in table] + [0])
    slots = np.searchsorted(known, codes)
    unmapped = known[slots] != codes
    if unmapped.any():
        values, counts = np.unique(codes[unmapped], return_counts=True)
        worst = sorted(zip(counts.tolist(), values.tolist(), strict=True), reverse=True)[:3]
        found = ", ".join(f"({code >> 16}, {code >> 8 & 255}, {code & 255}) on {n} pixels" for n, code in worst)
        more = f" and {len(values) - 3} more colours" if len(values) > 3 else ""
        expected = "the colours of the table" if colours else "a grey or palette mask"
        raise bad(path, found + more, expected, "Give each colour of the mask its class under `colours:`.")
    return ids.astype(np.uint8 if ids.min() >= 0 and ids.max() <= 255 else np.int64)[slots]


def _write(path: Path, image: Image.Image, kind: str, **options: Any) -> None:
    _place(path, lambda file: image.save(file, kind, quality=95, **options))


def _place(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Fill a file beside `path`, then put it in place in one step."""
    # A name of its own length: the target's name may already be as long as the file system allows.
    part = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                fill(file)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}). Choose another output.") from error
