"""Exact reading and writing of the field's image, label and depth files.

Pillow decodes: it agrees bit for bit with `torchvision.io`, whose decoders are deprecated since torchvision 0.29. What
it would change is mended here: 16-bit colour (cut to 8), 2- and 4-bit grey (stretched to 0..255), EXIF behind the
pixels, and a size limit of its own. The content decides the format, never the suffix, except for `.npy`.

Every reader raises `UnreadableError` for a file that is missing, damaged or of no known format (PNG, JPEG, TIFF, BMP,
GIF, WebP, `.npy`), `DataError` for more than `max_pixels` pixels, which the header tells before memory is allocated.
"""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Integer, UInt8, UInt16
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from segweave.errors import DataError, UnreadableError

MAX_PIXELS = 178_956_970

_FORMATS: dict[bytes, type[ImageFile]] = dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile)
_FORMATS |= {b"\x89PNG": PngImageFile, b"BM": BmpImagePlugin.BmpImageFile, b"GIF8": GifImagePlugin.GifImageFile}
_FORMATS |= {b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile, b"RIFF": WebPImagePlugin.WebPImageFile}
_KEPT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# Pillow names the byte it keeps of a 16-bit value by the byte order, so the other order gives the other byte.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _CHANNELS, _PLANAR, _SAMPLE_FORMAT = 256, 257, 258, 274, 277, 284, 339
# What an EXIF orientation asks for: swap the axes, then reverse the rows, then the columns.
_TURNS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}


@dataclass(frozen=True)
class Header:
    """What a file says before any pixel is decoded: its size AFTER the EXIF orientation, which is `rotated` unless 1.

    `mode` is Pillow's, with `;16` for 16-bit values (`RGB;16`); the numpy type (`float32`) for `.npy`.
    """

    height: int
    width: int
    mode: str
    rotated: bool


@dataclass(frozen=True)
class _Raster:
    """Pixels as stored but upright, [H, W] or [H, W, 3]; `top` is the white of 1-, 2- or 4-bit grey."""

    pixels: np.ndarray
    notes: list[str]
    palette: np.ndarray | None = None
    top: int | None = None


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Size and kind of a file from its header alone; no memory is allocated for pixels."""
    with _reading(path) as file:
        if path.suffix.lower() == ".npy":
            array = _open_npy(path, max_pixels)
            return Header(array.shape[0], array.shape[1], array.dtype.name, rotated=False)
        image, (height, width) = _open(file, path, max_pixels)
        mode, raw = image.mode, _rawmode(image)
        if ";16" in raw and ";16" not in mode:
            mode = "LA;16" if raw.startswith("LA") else f"{mode};16"
        orientation = _orientation(PngImageFile(_without_pixels(file)) if isinstance(image, PngImageFile) else image)
        size = (width, height) if _TURNS.get(orientation, (0,))[0] else (height, width)
        return Header(*size, mode, orientation in _TURNS)


def integer_bits(path: Path, max_pixels: int = MAX_PIXELS) -> int | None:
    """8 (also for fewer), 16 or 32 (also for more) bits per value, None for floating point; from the header alone."""
    mode = read_header(path, max_pixels).mode
    if path.suffix.lower() == ".npy":
        return None if mode.startswith("float") else min(8 * np.dtype(mode).itemsize, 32)
    return None if mode == "F" else 16 if ";16" in mode else 32 if mode == "I" else 8


def read_image(
    path: Path, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[Tensor, "3 H W"] | UInt16[Tensor, "3 H W"] | Float32[Tensor, "3 H W"], str | None]:
    """An upright image of three channels, and a note of what was converted on the way (None: nothing).

    uint8, or uint16 for 16-bit files: integers span the whole range of their type. float32 for float TIFF and `.npy`,
    in the file's own range. Signed and 32-bit integers are a DataError. The channels may lie last in memory.
    """
    raster = _decode(path, max_pixels)
    pixels, notes = raster.pixels, raster.notes
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise _bad(path, f"an image of {pixels.dtype} values", "uint8, uint16 or float values", "Convert it to one.")
    if pixels.dtype == np.uint16:
        notes.insert(0, "16-bit")
    if raster.palette is not None:
        pixels = raster.palette[pixels]
        notes.insert(0, "palette converted to RGB")
    if pixels.ndim == 3:
        return torch.from_numpy(pixels).permute(2, 0, 1), "; ".join(notes) or None
    pixels = pixels if raster.top is None else pixels * np.uint8(255 // raster.top)
    return torch.from_numpy(pixels).repeat(3, 1, 1), "; ".join(["grey repeated to 3 channels", *notes])


def read_index(
    path: Path, colours: Mapping[tuple[int, int, int], int] | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[Tensor, "H W"] | Int32[Tensor, "H W"]:
    """An upright map of class indices as stored: uint8, or int32 where the file has signed or wider values.

    Grey of 1, 2 or 4 bits gives 0..1, 0..3 or 0..15; a palette gives its indices, never its colours. Colour files go
    through `colours` (RGB to id); without a table, three equal channels are read as grey. Alpha is dropped.
    Floating point values, values beyond int32 and colours that the table lacks are a DataError.
    """
    pixels = _decode(path, max_pixels).pixels
    if pixels.ndim == 3:
        same = colours is None and bool((pixels == pixels[..., :1]).all())
        pixels = np.ascontiguousarray(pixels[..., 0]) if same else _map_colours(pixels, colours or {}, path)
    if pixels.dtype.kind == "f":
        raise _bad(path, "floating point values", "integer class indices", "Save the mask as an 8- or 16-bit PNG.")
    if pixels.dtype == np.uint8:
        return torch.from_numpy(pixels)
    low, high = int(pixels.min()), int(pixels.max())
    if low < -(2**31) or high >= 2**31:
        raise _bad(path, f"class indices {low}..{high}", "values within 32 bits", "Save the mask with small class ids.")
    return torch.from_numpy(pixels.astype(np.int32))


def read_values(path: Path, max_pixels: int = MAX_PIXELS) -> Float32[Tensor, "H W"]:
    """An upright map of real values as stored, not scaled; three channels or a palette are a DataError."""
    raster = _decode(path, max_pixels)
    if raster.pixels.ndim == 3 or raster.palette is not None:
        found = "a palette" if raster.palette is not None else "three colour channels"
        raise _bad(path, found, "one value per pixel", "Save the values as a 16-bit grey PNG, a float TIFF or .npy.")
    return torch.from_numpy(raster.pixels.astype(np.float32))


def write_index(labels: Integer[Tensor, "H W"], path: Path, palette: Sequence[tuple[int, int, int]]) -> None:
    """Write class indices exactly, as a palette PNG; `palette` is padded with black to 256 colours.

    Indices beyond 0..255, more than 256 colours and a file that cannot be written are a DataError.
    """
    array = labels.detach().cpu().numpy()
    if array.min() < 0 or array.max() > 255 or len(palette) > 256:
        found = f"indices {array.min()}..{array.max()} and {len(palette)} colours"
        raise _bad(path, found, "indices 0..255 and at most 256 colours", "A palette PNG cannot hold more classes.")
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


def in_millimetres(path: Path) -> bool:
    """Whether a depth map says of itself that it holds millimetres, as those of `write_depth` do."""
    with _reading(path) as file:
        return b"tEXtunits_per_metre\x001000" in file.read(256)


def write_image(image: UInt8[Tensor, "3 H W"], path: Path) -> None:
    """Write an RGB image as its suffix says: `.png` (exact), `.jpg` or `.jpeg` (quality 95); another is a DataError."""
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise _bad(path, f"the suffix {path.suffix!r}", ".png, .jpg or .jpeg", "Name the output accordingly.")
    _write(path, Image.fromarray(image.detach().cpu().permute(1, 2, 0).contiguous().numpy()), kind)


def _bad(path: Path, found: str, expected: str, cure: str, kind: type[DataError] = DataError) -> DataError:
    return kind(f"{path}: found {found}; expected {expected}. {cure}")


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with np.errstate(over="ignore"), path.open("rb") as file:
            yield file
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # Decoders fed hostile bytes raise nearly anything, so nothing narrower would hold.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        found, cure = f"an unreadable file ({reason})", "Check the path, export the file again, or leave it out."
        raise _bad(path, found, "a whole image or .npy array", cure, UnreadableError) from error


def _refuse_size(path: Path, height: int, width: int, max_pixels: int) -> None:
    if not 1 <= height * width <= max_pixels:
        found, expected = f"{width} x {height} = {height * width} pixels", f"at least 1 and at most {max_pixels}"
        raise _bad(path, found, expected, "Cut it into tiles, or raise the limit if you trust the file.")


def _open(file: IO[bytes], path: Path, max_pixels: int) -> tuple[ImageFile, tuple[int, int]]:
    """Parse the header: (image, stored height and width). `Image.open` has a size limit in a global of its own."""
    start = file.read(12)
    file.seek(0)
    kind = next((kind for signature, kind in _FORMATS.items() if start.startswith(signature)), None)
    if kind is None or (start.startswith(b"RIFF") and start[8:] != b"WEBP"):
        found = f"a file that starts with {start!r}" if start else "an empty file"
        known, cure = "PNG, JPEG, TIFF, BMP, GIF, WebP or .npy", "Export it again, or leave it out."
        raise _bad(path, found, known, cure, UnreadableError)
    image = kind(file)
    if isinstance(image, TiffImageFile):
        _mend(image)
    # Some versions of Pillow swap the size of a rotated TIFF before it is loaded, others after.
    width, height = (image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]) if isinstance(image, TiffImageFile) else image.size
    _refuse_size(path, height, width, max_pixels)
    return image, (height, width)


def _mend(image: TiffImageFile) -> None:
    """Correct how Pillow reads two kinds of TIFF: it would refuse the one and swap the bytes of the other."""
    if image.tag_v2.get(_PLANAR) == 2 and image.tag_v2.get(_CHANNELS, 1) == 1:
        # GDAL says of a single band that it lies apart, which means nothing but makes Pillow misname the layout.
        image.tag_v2[_PLANAR] = 1
        image._setup()
    raw = _rawmode(image)
    if image.tile and image.tile[0][0] == "libtiff" and raw.endswith(("BS", "BF")):
        # libtiff has already brought the values into the machine's byte order.
        _set_rawmode(image, raw.replace("B", "N"))


def _rawmode(image: ImageFile) -> str:
    """How the values lie in the file (`L;4`, `RGB;16B`); Pillow's mode where the format does not say."""
    arguments: Any = image.tile[0][3] if image.tile else None
    first = arguments[0] if isinstance(arguments, tuple) else arguments
    return first if isinstance(first, str) else image.mode


def _orientation(image: ImageFile) -> int:
    # PngImageFile.getexif would decode all pixels in search of an EXIF block behind them.
    return Image.Image.getexif(image).get(_ORIENTATION, 1)


def _without_pixels(file: IO[bytes]) -> io.BytesIO:
    """A PNG's header and metadata, also those behind the pixels, which Pillow would only reach by decoding."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    parts = [file.read(8)]
    while len(prefix := file.read(8)) == 8:
        size = int.from_bytes(prefix[:4])
        if prefix[4:] in (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt") and file.tell() + size + 4 <= length:
            parts.append(prefix + file.read(size + 4))
        else:
            file.seek(size + 4, os.SEEK_CUR)
    return io.BytesIO(b"".join([*parts, b"\0\0\0\0IDAT\x35\xaf\x06\x1e"]))


def _decode(path: Path, max_pixels: int) -> _Raster:
    with _reading(path) as file:
        if path.suffix.lower() == ".npy":
            array = _open_npy(path, max_pixels)
            kind = {"f": np.float32, "b": np.uint8}.get(array.dtype.kind, array.dtype.newbyteorder("="))
            pixels = np.array(array[..., :3] if array.ndim == 3 else array, kind, order="C", subok=False)
            notes = ["RGBA: alpha dropped"] if array.shape[2:] == (4,) else []
            return _Raster(pixels, notes, top=1 if array.dtype.kind == "b" else None)
        image, _ = _open(file, path, max_pixels)
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else None
        # Pillow turns a TIFF by itself and then forgets the orientation; a PNG may tell it behind the pixels.
        orientation = _orientation(image) if tags is not None else 1
        raw = _rawmode(image)
        mode, pixels = _load(image, raw, file, path)
        notes, palette, top = list[str](), None, None
        if mode in ("LA", "PA", "RGBA"):
            pixels = np.ascontiguousarray(pixels[..., :3] if mode == "RGBA" else pixels[..., 0])
            notes.append(f"{mode}: alpha dropped")
        elif mode not in _KEPT:
            notes.append(f"{mode} converted to RGB")
        if mode in ("P", "PA"):
            palette = np.frombuffer(bytes(image.getpalette("RGB") or ()).ljust(768, b"\0"), np.uint8).reshape(256, 3)
        elif mode == "1":
            pixels, top = pixels.astype(np.uint8), 1
        elif raw.startswith(("L;2", "L;4")):
            top = 2 ** int(raw[2]) - 1
            pixels = pixels // np.uint8(255 // top)
        elif mode.startswith("I") and not raw.endswith("S"):
            pixels = pixels.view(np.uint32) if raw.startswith("I;32") else pixels.astype(np.uint16)
        elif mode == "L" and tags is not None and tags.get(_SAMPLE_FORMAT, (1,))[0] == 2:
            pixels = pixels.view(np.int8)
        if tags is None and (orientation := _orientation(image)) in _TURNS:
            swap, rows, columns = _TURNS[orientation]
            pixels = pixels.swapaxes(0, 1) if swap else pixels
            pixels = np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])
        if orientation in _TURNS:
            notes.append(f"EXIF orientation {orientation} applied")
        return _Raster(pixels, notes, palette, top)


def _load(image: ImageFile, raw: str, file: IO[bytes], path: Path) -> tuple[str, np.ndarray]:
    """Decode the pixels: (mode, values). 16-bit colour is decoded once for the high and once for the low bytes."""
    apart = isinstance(image, TiffImageFile) and image.tag_v2.get(_PLANAR) == 2 and max(image.tag_v2[_BITS]) > 8
    if not apart and (";16" not in raw or image.mode.startswith("I")):
        return image.mode, _pixels(image)
    if raw.startswith("LA"):
        # Read as 8-bit RGBA, which has as many bytes per pixel, the four channels are the four bytes.
        _set_rawmode(image, "RGBA")
        halves = _pixels(image).astype(np.uint16)
        return "LA", halves[..., ::2] << 8 | halves[..., 1::2]
    if apart or raw[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16"):
        found = "16-bit colour in separate planes" if apart else f"16-bit pixels laid out as {raw!r}"
        raise _bad(path, found, "16-bit grey, RGB or RGBA, interleaved", "Convert it to a 16-bit PNG or .npy.")
    high = _pixels(image).astype(np.uint16) << 8
    file.seek(0)
    again = type(image)(file)
    _set_rawmode(again, raw[:-1] + _OTHER_BYTE[raw[-1]])
    return image.mode.removesuffix("X"), high | _pixels(again)


def _pixels(image: ImageFile) -> np.ndarray:
    if isinstance(image, TiffImageFile):
        # Pillow would make this memory itself, but not without its own size limit.
        image.im = Image.core.new(image.mode, (image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]))
    image.load()
    return np.array(image if image.mode in _KEPT else image.convert("RGB"))


def _set_rawmode(image: ImageFile, raw: str) -> None:
    tiles: list[Any] = image.tile
    for index, tile in enumerate(tiles):
        arguments = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
        # Pillow's tiles are plain tuples before version 11.
        tiles[index] = tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _open_npy(path: Path, max_pixels: int) -> np.ndarray:
    """A view of shape [H, W] or [H, W, 3 or 4] onto the file, which is not read before its values are used."""
    shape = (array := np.load(path, mmap_mode="r", allow_pickle=False)).shape
    if len(shape) == 3 and (shape[0] == 1 or (shape[2] not in (1, 3, 4) and shape[0] in (3, 4))):
        array = np.moveaxis(array, 0, 2)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or (*array.shape, 1)[2] not in (1, 3, 4):
        found = f"an array of {array.dtype} and shape {shape}"
        raise _bad(path, found, "[H, W] numbers, or 1, 3 or 4 channels of them", "Save it again with numpy.save.")
    _refuse_size(path, array.shape[0], array.shape[1], max_pixels)
    return array[..., 0] if array.shape[2:] == (1,) else array


def _map_colours(pixels: np.ndarray, colours: Mapping[tuple[int, int, int], int], path: Path) -> np.ndarray:
    if pixels.dtype != np.uint8:
        raise _bad(path, f"colours of {pixels.dtype} values", "an 8-bit colour mask", "Save it as an 8-bit PNG.")
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
        raise _bad(path, found + more, expected, "Give each colour of the mask its class under `colours:`.")
    return ids.astype(np.uint8 if ids.min() >= 0 and ids.max() <= 255 else np.int64)[slots]


def _write(path: Path, image: Image.Image, kind: str, **options: Any) -> None:
    """Fill a file beside `path`, then put it in place in one step."""
    # A name of its own length: the target's name may already be as long as the file system allows.
    part = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                image.save(file, kind, quality=95, **options)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}). Choose another output.") from error
