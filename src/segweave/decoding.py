"""A file of any format to its pixels as stored, and the errors and limits of all readers.

Pillow reads every header, and decodes all but the usual kinds of PNG: those go to libpng by imagecodecs, which is
faster, keeps 16 bits and refuses pixels that do not agree with their checksum. What else Pillow would change is mended
here, as `rasters` says.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import imagecodecs
import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from segweave import png, tiff
from segweave.errors import DataError, UnreadableError

_NAME_BANDS = "Say how many bands the files have, data.bands: 13, or which to read, data.bands: [4, 3, 2]."
_VALUES_PER_PIXEL = 4
"""Values that an image may have at most, over its most pixels: bands count as memory, too."""
_FORMATS: dict[bytes, type[ImageFile]] = dict.fromkeys(tiff.SIGNATURES, TiffImageFile)
_FORMATS |= {b"\x89PNG": PngImageFile, b"BM": BmpImagePlugin.BmpImageFile, b"GIF8": GifImagePlugin.GifImageFile}
_FORMATS |= {b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile, b"RIFF": WebPImagePlugin.WebPImageFile}
_KEPT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# Pillow names the byte it keeps of a 16-bit value by the byte order, so the other order gives the other byte.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
# What an EXIF orientation asks for: swap the axes, then reverse the rows, then the columns.
TURNS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}


@dataclass(frozen=True)
class Raster:
    """Pixels as stored but upright, [H, W] or [H, W, C]; `top` is the white of 1-, 2- or 4-bit grey.

    `nodata` is the value that stands for "no data".
    """

    pixels: np.ndarray
    notes: list[str]
    palette: np.ndarray | None = None
    top: int | None = None
    nodata: float | None = None


def bad(path: Path, found: str, expected: str, cure: str, kind: type[DataError] = DataError) -> DataError:
    """The error that a reader raises."""
    return kind(f"{path}: found {found}; expected {expected}. {cure}")


@contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """The open file; whatever a decoder raises for what is in it becomes an UnreadableError."""
    try:
        with np.errstate(over="ignore"), path.open("rb") as file:
            yield file
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # Decoders fed hostile bytes raise nearly anything, so nothing narrower would hold.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        found, cure = f"an unreadable file ({reason})", "Check the path, export the file again, or leave it out."
        raise bad(path, found, "a whole image or .npy array", cure, UnreadableError) from error


def refuse_size(path: Path, height: int, width: int, max_pixels: int, bands: int = 1) -> None:
    """Raises DataError for no pixel or too many, or too many values."""
    if bands > _VALUES_PER_PIXEL and height * width * bands > _VALUES_PER_PIXEL * max_pixels:
        found, expected = f"{width} x {height} x {bands} values", f"at most {_VALUES_PER_PIXEL * max_pixels}"
        raise bad(path, found, expected, "Cut it into tiles, or raise the limit if you trust the file.")
    if not 1 <= height * width <= max_pixels:
        found, expected = f"{width} x {height} = {height * width} pixels", f"at least 1 and at most {max_pixels}"
        raise bad(path, found, expected, "Cut it into tiles, or raise the limit if you trust the file.")


def open_image(file: IO[bytes], path: Path, max_pixels: int) -> tuple[ImageFile, tuple[int, int]]:
    """Parse the header: (image, stored height and width). `Image.open` has a size limit in a global of its own."""
    start = file.read(12)
    file.seek(0)
    kind = next((kind for signature, kind in _FORMATS.items() if start.startswith(signature)), None)
    if kind is None or (start.startswith(b"RIFF") and start[8:] != b"WEBP"):
        found = f"a file that starts with {start!r}" if start else "an empty file"
        known, cure = "PNG, JPEG, TIFF, BMP, GIF, WebP or .npy", "Export it again, or leave it out."
        raise bad(path, found, known, cure, UnreadableError)
    image = kind(file)
    if isinstance(image, TiffImageFile):
        _mend(image)
    # Some versions of Pillow swap the size of a rotated TIFF before it is loaded, others after.
    width, height = (
        (image.tag_v2[tiff.WIDTH], image.tag_v2[tiff.HEIGHT]) if isinstance(image, TiffImageFile) else image.size
    )
    refuse_size(path, height, width, max_pixels)
    return image, (height, width)


def _mend(image: TiffImageFile) -> None:
    """Correct how Pillow reads two kinds of TIFF: it would refuse the one and swap the bytes of the other."""
    if image.tag_v2.get(tiff.PLANAR) == 2 and image.tag_v2.get(tiff.CHANNELS, 1) == 1:
        # GDAL says of a single band that it lies apart, which means nothing but makes Pillow misname the layout.
        image.tag_v2[tiff.PLANAR] = 1
        image._setup()
    raw = rawmode(image)
    if image.tile and image.tile[0][0] == "libtiff" and raw.endswith(("BS", "BF")):
        # libtiff has already brought the values into the machine's byte order.
        _set_rawmode(image, raw.replace("B", "N"))


def rawmode(image: ImageFile) -> str:
    """How the values lie in the file (`L;4`, `RGB;16B`); Pillow's mode where the format does not say."""
    arguments: Any = image.tile[0][3] if image.tile else None
    first = arguments[0] if isinstance(arguments, tuple) else arguments
    return first if isinstance(first, str) else image.mode


def orientation_of(image: ImageFile, file: IO[bytes]) -> int:
    """The EXIF orientation that an image says of itself, 1 where it says nothing; `file` is the one it was opened from.

    That of a PNG may stand behind the pixels, where Pillow would only find it by decoding: it gets the metadata alone.
    """
    if not isinstance(image, PngImageFile):
        return _exif_orientation(image)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stored:
        metadata = png.metadata(stored)
    return _exif_orientation(PngImageFile(metadata)) if metadata else 1


def _exif_orientation(image: ImageFile) -> int:
    # PngImageFile.getexif would decode all pixels in search of an EXIF block behind them
    return Image.Image.getexif(image).get(tiff.ORIENTATION, 1)


def decode(path: Path, max_pixels: int, *, keep_alpha: bool = False, photograph: bool = False) -> Raster:
    """The pixels of a file that Pillow reads, or of `.npy`.

    Transparency is dropped, unless `keep_alpha`. A TIFF whose bands are not those of a `photograph` is a DataError.
    """
    with reading(path) as file:
        if path.suffix.lower() == ".npy":
            array = open_npy(path, max_pixels)
            kind = {"f": np.float32, "b": np.uint8}.get(array.dtype.kind, array.dtype.newbyteorder("="))
            pixels = np.array(array[..., :3] if array.ndim == 3 else array, kind, order="C", subok=False)
            notes = ["RGBA: alpha dropped"] if array.shape[2:] == (4,) else []
            return Raster(pixels, notes, top=1 if array.dtype.kind == "b" else None)
        if photograph:
            _refuse_bands(file, path)
        mode, raster, orientation = _plain_png(file, path, max_pixels) or _by_pillow(file, path, max_pixels)
        pixels = raster.pixels
        notes = list[str]()
        if mode in ("LA", "PA", "RGBA") and not keep_alpha:
            pixels = np.ascontiguousarray(pixels[..., :3] if mode == "RGBA" else pixels[..., 0])
            notes.append(f"{mode}: alpha dropped")
        elif mode not in _KEPT:
            notes.append(f"{mode} converted to RGB")
        if orientation in TURNS:
            notes.append(f"EXIF orientation {orientation} applied")
        return replace(raster, pixels=pixels, notes=notes)


def _by_pillow(file: IO[bytes], path: Path, max_pixels: int) -> tuple[str, Raster, int]:
    """Mode, upright pixels as stored, and orientation of a file: Pillow would stretch narrow grey and miss signs."""
    image, _ = open_image(file, path, max_pixels)
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else None
    # Pillow turns a TIFF by itself and then forgets the orientation.
    orientation = orientation_of(image, file) if tags is not None else 1
    raw = rawmode(image)
    mode, pixels = _load(image, raw, file, path)
    palette, top = None, None
    if mode in ("P", "PA"):
        palette = np.frombuffer(bytes(image.getpalette("RGB") or ()).ljust(768, b"\0"), np.uint8).reshape(256, 3)
    elif mode == "1":
        pixels, top = pixels.astype(np.uint8), 1
    elif raw.startswith(("L;2", "L;4")):
        top = 2 ** int(raw[2]) - 1
        pixels = pixels // np.uint8(255 // top)
    elif mode.startswith("I") and not raw.endswith("S"):
        pixels = pixels.view(np.uint32) if raw.startswith("I;32") else pixels.astype(np.uint16)
    elif mode == "L" and tags is not None and tags.get(tiff.SAMPLE_FORMAT, (1,))[0] == 2:
        pixels = pixels.view(np.int8)
    if tags is None:
        orientation = orientation_of(image, file)
        pixels = _upright(pixels, orientation)
    return mode, Raster(pixels, [], palette, top), orientation


def _plain_png(file: IO[bytes], path: Path, max_pixels: int) -> tuple[str, Raster, int] | None:
    """The same of a PNG that libpng gives as it is stored; None for any other file."""
    kind = png.plain_kind(file)
    if kind is None:
        return None
    height, width, mode, channels = kind
    refuse_size(path, height, width, max_pixels)
    with png.stored(file) as stored:
        pixels = imagecodecs.png_decode(stored)
        metadata = png.metadata(stored)
    if pixels.ndim == 3 and pixels.shape[2] > channels:
        # one colour of the file stands for transparency, and came as one more channel
        pixels = np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels[..., :-1])
    orientation = _exif_orientation(PngImageFile(metadata)) if metadata else 1
    return mode, Raster(_upright(pixels, orientation), []), orientation


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in TURNS:
        return pixels
    swap, rows, columns = TURNS[orientation]
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def _refuse_bands(file: IO[bytes], path: Path) -> None:
    """Raises DataError for a TIFF whose bands are not those of a photograph."""
    signature = file.read(4)
    file.seek(0)
    if signature in tiff.SIGNATURES and (spare := tiff.spare_bands(file)):
        raise bad(path, f"{spare} bands beyond those of colour and transparency", "a photograph", _NAME_BANDS)
    file.seek(0)


def decode_bands(path: Path, max_pixels: int, bands: int | Sequence[int]) -> Raster:
    """[H, W, C] with the bands of a file that `bands` asks for, as `rasters.read_image` says."""
    with reading(path) as file:
        if path.suffix.lower() == ".npy":
            array = _open_npy_bands(path, max_pixels, bands)
            kind = {"f": np.float32, "b": np.uint8}.get(array.dtype.kind, array.dtype.newbyteorder("="))
            pixels = np.array(array[..., _wanted(array.shape[2], False, bands, path)], kind, order="C", subok=False)
            return Raster(pixels, [], top=1 if array.dtype.kind == "b" else None)
        signature = file.read(4)
        file.seek(0)
        if signature in tiff.SIGNATURES and (layout := tiff.read_layout(file)).plain:
            refuse_size(path, layout.height, layout.width, max_pixels, layout.bands)
            pixels = tiff.read_bands(file, layout, _wanted(layout.bands, layout.alpha, bands, path))
            pixels = pixels.astype(np.float32, copy=False) if pixels.dtype.kind == "f" else pixels
            notes = [f"EXIF orientation {layout.orientation} applied"] if layout.orientation in TURNS else []
            return Raster(_upright(pixels, layout.orientation), notes, nodata=layout.nodata)
    raster = decode(path, max_pixels, keep_alpha=True)
    pixels = raster.pixels if raster.palette is None else raster.palette[raster.pixels]
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    wanted = _wanted(pixels.shape[2], pixels.shape[2] in (2, 4), bands, path)
    return Raster(np.ascontiguousarray(pixels[..., wanted]), raster.notes, top=raster.top)


def _wanted(count: int, alpha: bool, bands: int | Sequence[int], path: Path) -> list[int]:
    """Which of a file's bands to take, from 0. The last is left out where it is transparency that nobody asked for."""
    if isinstance(bands, int):
        if bands == count or (alpha and bands == count - 1):
            return list(range(bands))
        expected = f"{bands}, as data.bands says"
    elif max(bands) <= count:
        return [band - 1 for band in bands]
    else:
        expected = f"band {max(bands)} of data.bands among them"
    raise bad(path, f"{count} band{'s' if count > 1 else ''}", expected, "Correct data.bands, or leave the file out.")


def _load(image: ImageFile, raw: str, file: IO[bytes], path: Path) -> tuple[str, np.ndarray]:
    """Decode the pixels: (mode, values). 16-bit colour of TIFF comes once for the high and once for the low bytes."""
    if isinstance(image, PngImageFile):
        chunks, pixels = png.chunks(file), _pixels(image)
        if image.info.get("interlace") or not pixels[-1].any():
            png.refuse_short(file, chunks)
        return image.mode, pixels
    apart = isinstance(image, TiffImageFile) and image.tag_v2.get(tiff.PLANAR) == 2 and max(image.tag_v2[tiff.BITS]) > 8
    if not apart and (";16" not in raw or image.mode.startswith("I")):
        return image.mode, _pixels(image)
    if apart or raw[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16"):
        found = "16-bit colour in separate planes" if apart else f"16-bit pixels laid out as {raw!r}"
        raise bad(path, found, "16-bit grey, RGB or RGBA, interleaved", "Convert it to a 16-bit PNG or .npy.")
    high = _pixels(image).astype(np.uint16) << 8
    file.seek(0)
    again = type(image)(file)
    _set_rawmode(again, raw[:-1] + _OTHER_BYTE[raw[-1]])
    return image.mode.removesuffix("X"), high | _pixels(again)


def _pixels(image: ImageFile) -> np.ndarray:
    if isinstance(image, TiffImageFile):
        # Pillow would make this memory itself, but not without its own size limit.
        image.im = Image.core.new(image.mode, (image.tag_v2[tiff.WIDTH], image.tag_v2[tiff.HEIGHT]))
    image.load()
    return np.array(image if image.mode in _KEPT else image.convert("RGB"))


def _set_rawmode(image: ImageFile, raw: str) -> None:
    tiles: list[Any] = image.tile
    for index, tile in enumerate(tiles):
        arguments = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
        # Pillow's tiles are plain tuples before version 11.
        tiles[index] = tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _refuse_spare(path: Path, array: Any) -> None:
    """Raises ValueError for a file that goes on beyond its array: its shape is then not what was written."""
    if spare := path.stat().st_size - array.offset - array.nbytes:
        raise ValueError(f"{spare} bytes beyond an array of shape {array.shape}")


def open_npy(path: Path, max_pixels: int) -> np.ndarray:
    """A view of shape [H, W] or [H, W, 3 or 4] onto the file, which is not read before its values are used."""
    shape = (array := np.load(path, mmap_mode="r", allow_pickle=False)).shape
    if len(shape) == 3 and (shape[0] == 1 or (shape[2] not in (1, 3, 4) and shape[0] in (3, 4))):
        array = np.moveaxis(array, 0, 2)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or (*array.shape, 1)[2] not in (1, 3, 4):
        found = f"an array of {array.dtype} and shape {shape}"
        cure = _NAME_BANDS if array.ndim == 3 else "Save it again with numpy.save."
        raise bad(path, found, "[H, W] numbers, or 1, 3 or 4 channels of them", cure)
    _refuse_spare(path, array)
    refuse_size(path, array.shape[0], array.shape[1], max_pixels)
    return array[..., 0] if array.shape[2:] == (1,) else array


def _open_npy_bands(path: Path, max_pixels: int, bands: int | Sequence[int]) -> np.ndarray:
    """A view [H, W, C]: the bands are the axis of the number that is asked for, else the shorter one, else the last."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3):
        found = f"an array of {array.dtype} and shape {array.shape}"
        raise bad(path, found, "[H, W], [H, W, C] or [C, H, W] numbers", "Save it again with numpy.save.")
    _refuse_spare(path, array)
    array = array[..., None] if array.ndim == 2 else array
    first, last = array.shape[0], array.shape[2]
    if last != bands and (first == bands or first < last):
        array = np.moveaxis(array, 0, 2)
    refuse_size(path, array.shape[0], array.shape[1], max_pixels, array.shape[2])
    return array
