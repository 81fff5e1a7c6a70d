"""Data sets in the layout they were published in: the format says where files are and what their values mean."""

from __future__ import annotations

import struct
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from segweave import rasters
from segweave.data import shares
from segweave.data.dataset import match_layers, must_read
from segweave.data.files import ImageFiles, Label
from segweave.data.layout import RASTERS, examples
from segweave.errors import ConfigError, DataError, UnreadableError
from segweave.tasks.options import class_names
from segweave.tasks.task import Task


class Layer(NamedTuple):
    """What a format has labels of: the task kind that reads it, and its classes in the order of their values."""

    kind: str
    classes: Sequence[str] = ()


class Published(ImageFiles):
    """One split of a published data set.

    Labels reach a task's `wrap` as plain values: of semantic uint8 [H, W] with 255 where nothing is labelled; of depth
    float32 [H, W] metres with 0 where nothing is measured; of normals float32 [3, H, W]; of edges uint8 [H, W], 0, 1
    and 255; of detection float32 [N, 5], x1 y1 x2 y2 in pixels and the class, or [N, 7] with crowd (0 or 1) and area;
    of classification int64 [], the class.

    Args:
        split: which part to read.
        readers: the tasks.
        root: the folder of the data set.
        val: share of the training images that validate, where the release has no split for it: those whose id has the
            lowest SHA-256, the same on every machine. Where neighbours look alike, as the frames of a video do, write
            grouped splits instead: `segweave data split`.
        bands: of the images, as in `folder`.

    Attributes:
        known: the layers by name.
        published: the splits of the release.
        by_name: the layers whose classes a task finds by their names, some of them or in another order.

    Raises:
        ConfigError: a folder, split or layer that does not exist, or a layer of another kind or with other classes.
        DataError: no image found.
    """

    known: ClassVar[Mapping[str, Layer]]
    published: Sequence[str] = ("train", "val", "test")
    by_name: ClassVar[Collection[str]] = ()

    def __init__(
        self,
        split: str,
        readers: Sequence[Task],
        *,
        root: str,
        val: float = 0.2,
        bands: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(root, "of the data set", readers, bands)
        self.find()
        if not 0 < val < 1:
            raise ConfigError(f"data.val: found {val}; expected a share between 0 and 1")
        self._must_have(split)
        offered = self.offered({"root": root})
        layers = {name: layer.kind for name, layer in offered.items()}
        self.layer = match_layers(readers, layers)
        must_read(readers, self.layer, layers)
        for task in readers:
            if self.layer[task.name] not in self.by_name:
                self._must_know(task, self.layer[task.name], offered[self.layer[task.name]])
        drawn = "val" not in self.published and split in ("train", "val")
        release = "train" if drawn else split
        found = dict(self.images(release))
        validate = self._drawn(found, val) if drawn else set()
        kept = {id: path for id, path in found.items() if not drawn or (id in validate) == (split == "val")}
        if not kept:
            why = f"all {len(found)} of the release validate" if found else "is data.root the right folder?"
            raise DataError(f"{self.root}: split {split!r} has no images; {why}")
        self._images = kept
        self.ids = sorted(kept)
        self._labels = {}
        for task, name in self.layer.items():
            labels = self.labels_of(self.readers[task], name, release)
            self._labels[task] = {id: labels[id] for id in self.ids if id in labels}
            if labels and not labels.keys() & found.keys():
                raise DataError(
                    f"{self.root}: no label of {name} belongs to an image; {examples(labels, found, 'labels')}"
                )

    def _must_know(self, task: Task, name: str, layer: Layer) -> None:
        """Raises ConfigError for a task whose classes are others: its ids would mean something else."""
        classes = getattr(task, "classes", None)
        # a binary task has a name for the background too
        known = [list(classes or ()), list(getattr(task, "names", ()))]
        if not layer.classes or classes is None or list(layer.classes) in known:
            return
        if list(classes) == class_names(task.name, len(classes)) and len(classes) >= len(layer.classes):
            return  # a mere number
        raise ConfigError(
            f"tasks.{task.name}.classes: found {', '.join(classes)}; expected {', '.join(layer.classes)}, those of "
            f"layer {name!r} in this order: leave classes out, or convert the data and map their ids"
        )

    def _drawn(self, ids: Collection[str], share: float) -> set[str]:
        """The images that validate: whole groups, by the lowest SHA-256 of their names, until there are enough."""
        drawn: set[str] = set()
        for group in sorted({self.group(id) for id in ids}, key=shares.position):
            if len(drawn) >= max(1, round(share * len(ids))):
                break
            drawn |= {id for id in ids if self.group(id) == group}
        return drawn

    def find(self) -> None:
        """Looks which layout lies in `root`, for releases that have several. Raises DataError."""

    def group(self, id: str) -> str:
        """The name by which an image is drawn to train or val: images of one name stay together."""
        return id

    @abstractmethod
    def images(self, split: str) -> Mapping[str, Path]:
        """The image files of a split of the release, by id. Raises DataError where the layout is another."""

    @abstractmethod
    def labels(self, layer: str, split: str) -> Mapping[str, Label]:
        """Where the labels are, by the id of their image; there may be more or fewer than images."""

    def labels_of(self, task: Task, layer: str, split: str) -> Mapping[str, Label]:  # noqa: ARG002
        """The labels that one task reads of a layer, for formats of which a task reads files itself."""
        return self.labels(layer, split)

    @abstractmethod
    def values(self, layer: str, label: Label, id: str) -> Tensor:
        """A label as plain values. Raises DataError."""

    def folder(self, name: str) -> Path:
        """A folder of the release, which lies in `root` or one folder deeper. Raises DataError."""
        below = sorted(path for path in self.root.iterdir() if path.is_dir())
        for place in (self.root, *below):
            if (place / name).is_dir():
                return place / name
        there = ", ".join(path.name for path in below[:8]) or "no folders"
        raise DataError(f"{self.root}: found {there}; expected a folder {name!r}, as the release has")

    def annotation(self, index: int, task: str) -> Tensor | None:
        id = self.ids[index]
        label = self._labels[task].get(id)
        if label is None:
            return None
        reader = self.readers[task]
        values = self.values(self.layer[task], label, id)
        if reader.dense:
            size = (values.shape[-2], values.shape[-1])
        else:
            # boxes that a raster shows are of its size
            shown = label if isinstance(label, Path) and label.suffix.lower() in RASTERS else self._images[id]
            header = rasters.read_header(shown)
            size = (header.height, header.width)
        try:
            return reader.wrap(values, size)
        except DataError as error:
            raise DataError(f"{self.file(index, task) or self._images[id]}: {error}") from None

    @property
    def splits(self) -> Sequence[str]:
        return list(dict.fromkeys([*self.published[:1], "val", *self.published[1:]]))

    @classmethod
    def offered(cls, options: Mapping[str, Any]) -> Mapping[str, Layer]:  # noqa: ARG003
        """The layers of data with these options of a config: all that are known, unless the data say more."""
        return cls.known

    @classmethod
    def default_classes(cls, options: Mapping[str, Any] | None = None) -> Mapping[str, Sequence[str]]:
        offered = cls.offered(options or {})
        named = {name: layer.classes for name, layer in offered.items() if layer.classes}
        kinds = [layer.kind for layer in offered.values()]
        alone = {layer.kind: layer.classes for layer in offered.values() if kinds.count(layer.kind) == 1}
        return {kind: classes for kind, classes in alone.items() if classes} | named

    @classmethod
    def layers(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return {name: layer.kind for name, layer in cls.offered(options).items()}


_PACKED, _LARGEST = 15, 2**27
"""The number of MATLAB's type of a compressed variable, and the bytes that one may have unpacked."""


def read_classes(path: Path, classes: Mapping[int, int], expected: str) -> UInt8[Tensor, "H W"]:
    """A file of ids as classes.

    Args:
        path: the file, as `rasters.read_index` reads it.
        classes: class by id of 0 to 255, 255 for ids that mean "not labelled".
        expected: the ids, in words.

    Raises:
        DataError: an id that is not among them.
    """
    ids = rasters.read_index(path).numpy()
    stray = next(value for value in range(256) if value not in classes.values())
    table = bytearray([stray]) * 256
    for id, value in classes.items():
        table[id] = value
    # bytes are translated in a fifth of the time that indexing takes
    translated = bytearray(ids.astype(np.uint8, copy=False)).translate(table)
    found = np.frombuffer(translated, np.uint8).reshape(ids.shape)
    if ids.dtype != np.uint8:
        found[(ids < 0) | (ids > 255)] = stray
    if stray in translated:
        values, pixels = np.unique(ids[found == stray], return_counts=True)
        shown = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:5].tolist(), pixels.tolist(), strict=False))
        raise DataError(
            f"{path}: found label id {shown}; expected {expected}. Correct the file, or read the data as "
            f"`folder` with that id in the task's `ignore` or `classes`"
        )
    return torch.from_numpy(found)


def read_matlab(path: Path, name: str) -> np.ndarray:
    """A variable of a file in MATLAB's format 5.

    Raises:
        UnreadableError: a file that is missing or damaged, or has no such variable.
        DataError: a variable that is too large.
    """
    from scipy.io import loadmat  # takes a third of a second

    try:
        _refuse_large(path)
        with warnings.catch_warnings():
            # of a damaged variable scipy warns, and gives the message as its value
            warnings.filterwarnings("error", "Unreadable variable")
            return loadmat(path, variable_names=[name])[name]
    except DataError:
        raise
    except Exception as error:  # scipy raises nearly anything for bytes that are no MATLAB file
        raise UnreadableError(f"{path}: cannot be read ({error!r}); expected MATLAB's format 5 with {name}") from None


def _refuse_large(path: Path) -> None:
    """Raises DataError for a variable that says of itself that it is too large; none is unpacked."""
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}[file.read(128)[126:]]
        while tag := file.read(8):
            kind, size = struct.unpack(f"{order}II", tag)
            end = file.tell() + size
            if kind == _PACKED:
                _, size = struct.unpack(f"{order}II", zlib.decompressobj().decompress(file.read(64), 8))
            if size > _LARGEST:
                raise DataError(f"{path}: found a variable of {size} bytes; expected at most {_LARGEST}")
            file.seek(end)
