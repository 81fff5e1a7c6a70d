"""PNG chunk by chunk: the parts of it that Pillow leaves unread."""

from __future__ import annotations

import io
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import IO

_MODES = {0: ("L", 1), 2: ("RGB", 3), 4: ("LA", 2), 6: ("RGBA", 4)}
"""Mode and channels by the colour type of the PNG that libpng gives as they are stored, which a palette is not."""
_READ_AT_ONCE = 2**26
"""Bytes of a file that are read, which is faster than mapping it."""
_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values per pixel by the colour type of a PNG."""
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Of an interlaced one: the first row and column of each pass, and the steps down and across."""


def plain_kind(file: IO[bytes]) -> tuple[int, int, str, int] | None:
    """Height, width, mode and channels of a PNG that libpng gives as it is stored; None for any other file."""
    start = file.read(33)
    file.seek(0)
    if len(start) < 33 or not start.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        return None
    width, height, bits, colours = struct.unpack_from(">II2B", start, 16)
    return (height, width, *_MODES[colours]) if bits >= 8 and colours in _MODES else None


def stored(file: IO[bytes]) -> AbstractContextManager[bytes | mmap.mmap]:
    """All bytes of a file; those of a large one stay in it, because a small image may be in a file of any size."""
    if os.fstat(file.fileno()).st_size > _READ_AT_ONCE:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    file.seek(0)
    return nullcontext(file.read())


def metadata(stored: bytes | mmap.mmap) -> io.BytesIO | None:
    """A PNG's header and the metadata before and behind the pixels; None without any."""
    place, parts = 8, [stored[:8]]
    while place + 12 <= len(stored):
        size, kind = struct.unpack_from(">I4s", stored, place)
        end = place + size + 12
        if kind in (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt") and end <= len(stored):
            parts.append(stored[place:end])
        place = end
    return io.BytesIO(b"".join([*parts, b"\0\0\0\0IDAT\x35\xaf\x06\x1e"])) if len(parts) > 2 else None


def chunks(file: IO[bytes]) -> list[tuple[bytes, int, int]]:
    """Kind, place and size of the chunks of a PNG. Raises ValueError for a damaged one.

    Pillow leaves the checksums of pixels unread, and would decode a flipped bit to other values.
    """
    length, found, kind = file.seek(0, os.SEEK_END), list[tuple[bytes, int, int]](), b""
    file.seek(8)
    while kind != b"IEND":
        prefix = file.read(8)
        size, kind, place = int.from_bytes(prefix[:4]), prefix[4:], file.tell()
        if place + size + 4 > length:
            raise ValueError("a PNG that is cut off")
        if zlib.crc32(file.read(size), zlib.crc32(kind)) != int.from_bytes(file.read(4)):
            raise ValueError(f"a PNG whose checksum of {kind.decode('latin-1')} is wrong")
        found.append((kind, place, size))
    return found


def refuse_short(file: IO[bytes], chunks: Sequence[tuple[bytes, int, int]]) -> None:
    """Raises ValueError for a PNG with fewer rows than its header says: Pillow makes the others 0."""
    file.seek(16)
    width, height, bits, colours, _, _, interlaced = struct.unpack(">II5B", file.read(13))
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(height - top) // down), -(-(width - left) // across)) for top, left, down, across in passes]
    per_pixel = bits * _BANDS[colours]
    missing = sum(rows * (1 + -(-columns * per_pixel // 8)) for rows, columns in sides if columns)
    inflate = zlib.decompressobj()
    for kind, place, size in chunks:
        file.seek(place)
        packed = file.read(size) if kind == b"IDAT" else b""
        while packed and missing > 0:
            missing -= len(inflate.decompress(packed, 2**16))
            packed = inflate.unconsumed_tail
    if missing > 0:
        raise ValueError(f"a PNG whose pixels lack {missing} bytes")
