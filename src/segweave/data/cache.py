"""Decoded images and labels in files that are mapped into memory, so that a crop reads what it shows and no more.

An entry is one image with all its labels: a checksum, a description in JSON, and the values as they lie in memory. A
sample made of it has tensors on the mapped file, of the strides that the decoder gave them: whatever is computed from
them is the same to the last bit, and the operating system reads the pages of the file that are looked at.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segweave.atomic import sweep, whole_file
from segweave.batch import Sample
from segweave.data.dataset import Dataset, Wrapper
from segweave.errors import ConfigError
from segweave.tasks.boxes import Boxes, wrapped
from segweave.tasks.edge_map import EdgeMap
from segweave.tasks.maps import DenseMap
from segweave.tasks.normals import NormalMap
from segweave.tasks.task import Task

_KINDS = {kind.__name__: kind for kind in (Tensor, DenseMap, EdgeMap, NormalMap, Boxes)}
_MAGIC = b"segweave cache 1"
_HEAD = struct.Struct("<16sII")  # the magic, a CRC-32 of all that follows it, and the length of the description
_CHECKED = 20  # where what the checksum covers begins
_ALIGN = 64
_TRAINING_ONLY = {"loss", "weight", "average", "regularizers", "decoder", "at", "class_weights"}

Files = list[list[int]] | None
"""Size and times of change of every file that an image is made of; None where one is missing."""


class Cached(Wrapper):
    """Another data set, whose samples are decoded once and from then on mapped from files.

    Entries belong to one state of the data: its fingerprint, the options of the data and of the tasks that decide what
    is read, the versions of segweave and of the decoders; entries of the same data in an earlier state are removed.
    Besides, size and times of an image's own files are compared at every read, and an entry that is older than one of
    them is made anew. The checksum of an entry is tested when a process first reads it, and again when its file has
    changed.

    Processes share a folder: an entry appears whole or not at all, and one lock guards the count of bytes.

    Args:
        dataset: that is read where the cache has nothing.
        tasks: those that read its labels.
        how: the options of the data that decide what is read, as text.
        folder: where entries are kept; `segweave` in the user's cache folder (`$XDG_CACHE_HOME`, else `~/.cache`) by
            default. Several data sets and runs may share it.
        max_gb: gigabytes (10^9 bytes) that all of the folder may take. Images that do not fit are read from their
            files.

    Raises:
        ConfigError: a folder that cannot be written to, or `max_gb` that is not above 0.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Sequence[Task],
        how: str,
        *,
        folder: str | None = None,
        max_gb: float = 20.0,
    ) -> None:
        if not max_gb > 0:
            raise ConfigError(f"data.cache.max_gb: found {max_gb}; expected a number above 0")
        super().__init__(dataset)
        self.folder = Path(folder).expanduser() if folder else _user_folder()
        self.max_gb = max_gb
        self._tasks = [task.name for task in tasks]
        self._fingerprint = dataset.fingerprint()
        self._checked: dict[int, tuple[int, ...]] = {}
        self._closed = False
        readers = [{k: v for k, v in task.spec().items() if k not in _TRAINING_ONLY} for task in tasks]
        same = _digest(how, readers)
        self._place = (
            self.folder / same / _digest(self._fingerprint, *map(version, ("segweave", "pillow", "imagecodecs")))
        )
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder) as count:
                for earlier in (self.folder / same).iterdir():
                    if earlier != self._place:
                        shutil.rmtree(earlier)
                sweep(self._place)
                count.write(sum(path.stat().st_size for path in self.folder.glob("*/*/*")))
        except OSError as error:
            raise ConfigError(
                f"data.cache.folder: {self.folder}: cannot be written ({error.strerror}); expected a folder of yours"
            ) from None

    def __getitem__(self, index: int) -> Sample:
        files = self._files(index)
        entry = self._entry(index, files)
        if entry is not None:
            sample, notes = entry
            self.notes.update(notes)
            return sample
        before = Counter(self.notes)
        sample = self.dataset[index]
        if files is not None and not self._closed:
            self._keep(index, _packed(sample, files, self.notes - before))
        return sample

    def _files(self, index: int) -> Files:
        paths = [self.dataset.file(index), *(self.dataset.file(index, task) for task in self._tasks)]
        try:
            facts = [path.stat() for path in paths if path is not None]
        except OSError:  # reading it says what is wrong
            return None
        return [[fact.st_size, fact.st_mtime_ns, fact.st_ctime_ns] for fact in facts]

    def _path(self, index: int) -> Path:
        return self._place / str(index)

    def _entry(self, index: int, files: Files) -> tuple[Sample, Mapping[str, int]] | None:
        """The sample as it was kept, with the notes of its reading; None where there is none of these files."""
        try:
            with self._path(index).open("rb") as file:
                facts = os.fstat(file.fileno())
                seal = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                # private pages: a sample that is changed in place changes no entry
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if facts.st_size else b""
        except OSError:
            return None
        if self._checked.get(index) != seal:
            if not _is_whole(content):
                self.notes["cache: damaged entries, which were decoded again"] += 1
                return None
            self._checked[index] = seal
        described = _description(content)
        if described["files"] != files:
            return None
        return _unpacked(content, described, self.ids[index]), described["notes"]

    def _keep(self, index: int, parts: Sequence[bytes | memoryview]) -> None:
        """Writes an entry where it fits; what keeps it from being written does so for the others too."""
        path, size = self._path(index), sum(map(len, parts))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder) as count:
                total = count.read() + size - (path.stat().st_size if path.exists() else 0)
                if total > 1e9 * self.max_gb:
                    self._close(f"is full (data.cache.max_gb: {self.max_gb:g})")
                    return
                # before the entry, so that a process that is killed between the two has not exceeded the limit
                count.write(total)
                with whole_file(path) as temporary, temporary.open("wb") as file:
                    file.writelines(parts)
        except OSError as error:
            self._close(f"cannot be written ({error.strerror})")

    def _close(self, why: str) -> None:
        self._closed = True
        self.notes[f"cache: {self.folder} {why}; images that are not in it are read from their files"] += 1

    def fingerprint(self) -> str:
        return self._fingerprint


def _user_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segweave"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


class _Count:
    """The bytes of all entries, in a file that its holder has locked."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def read(self) -> int:
        return int(os.pread(self._handle, 32, 0) or b"0")

    def write(self, total: int) -> None:
        os.pwrite(self._handle, b"%32d" % total, 0)


@contextmanager
def _locked(folder: Path) -> Iterator[_Count]:
    handle = os.open(folder / "bytes", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield _Count(handle)
    finally:
        os.close(handle)  # which unlocks it


def _packed(sample: Sample, files: Files, notes: Mapping[str, int]) -> list[bytes | memoryview]:
    """A sample as the parts of a file."""
    values, bodies, end = [], list[bytes | memoryview](), 0
    for name, value in {"": sample.image, **sample.annotations}.items():
        plain = value.as_subclass(Tensor)
        last = plain.ndim == 3 and plain.permute(1, 2, 0).is_contiguous()  # as most decoders leave channels
        array = np.ascontiguousarray((plain.permute(1, 2, 0) if last else plain).numpy())
        shape = list(plain.permute(1, 2, 0).shape if last else plain.shape)
        fact = {"name": name, "kind": type(value).__name__, "dtype": array.dtype.str, "shape": shape, "last": last}
        if isinstance(value, Boxes):
            fact |= {"canvas_size": list(value.canvas_size), "notes": dict(value.notes)}
        values.append(fact | {"start": end})
        bodies += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % _ALIGN)]
        end += array.nbytes + -array.nbytes % _ALIGN
    described = json.dumps({"files": files, "notes": dict(notes), "values": values}).encode()
    described += b" " * (-(_HEAD.size + len(described)) % _ALIGN)
    parts = [len(described).to_bytes(4, "little"), described, *bodies]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return [_MAGIC, checksum.to_bytes(4, "little"), *parts]


def _is_whole(content: mmap.mmap | bytes) -> bool:
    if len(content) < _HEAD.size:
        return False
    magic, checksum, _ = _HEAD.unpack_from(content)
    return magic == _MAGIC and checksum == zlib.crc32(memoryview(content)[_CHECKED:])


def _description(content: mmap.mmap | bytes) -> dict[str, Any]:
    return json.loads(content[_HEAD.size : _body(content)])


def _body(content: mmap.mmap | bytes) -> int:
    """Where the values begin."""
    return _HEAD.size + _HEAD.unpack_from(content)[2]


def _unpacked(content: mmap.mmap | bytes, described: Mapping[str, Any], id: str) -> Sample:
    """A sample on the mapped file."""
    pixels, start = np.frombuffer(content, np.uint8), _body(content)
    values: dict[str, Tensor] = {}
    for fact in described["values"]:
        dtype, shape = np.dtype(fact["dtype"]), fact["shape"]
        first = start + fact["start"]
        length = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        plain = torch.from_numpy(pixels[first : first + length].view(dtype).reshape(shape))
        plain = plain.permute(2, 0, 1) if fact["last"] else plain
        kind = _KINDS[fact["kind"]]
        if kind is Boxes:
            height, width = fact["canvas_size"]
            values[fact["name"]] = wrapped(plain, (height, width), fact["notes"])
        else:
            values[fact["name"]] = plain.as_subclass(kind)
    return Sample(id, values.pop(""), values)
