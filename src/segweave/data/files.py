"""Images in files of their own, whatever says where they and their labels are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

from torch import Tensor

from segweave import rasters
from segweave.batch import Sample
from segweave.data.dataset import Dataset
from segweave.data.layout import by_end, by_last, examples, without_suffix
from segweave.errors import ConfigError, DataError
from segweave.tasks.task import Task

Label = Path | tuple[Path, Path | bytes] | str | Callable[[], Tensor]
"""A file, a file with what else says what it holds, a table's cell, or a reader that travels to other processes."""


class ImageFiles(Dataset):
    """What formats share whose every image is one file: they find the files, and read one label by `annotation`.

    Args:
        root: the folder.
        holds: what it is, for the message where it is missing.
        readers: the tasks.
        bands: of the images, for `rasters.read_image`.

    Attributes:
        readers: the tasks by name.
        listings: suffixes of files that `root` may be instead of a folder.

    Raises:
        ConfigError: no such folder.
    """

    listings: ClassVar[Collection[str]] = ()
    _images: Mapping[str, Path]
    _labels: Mapping[str, Mapping[str, Label]]

    def __init__(self, root: str, holds: str, readers: Sequence[Task], bands: int | Sequence[int] | None) -> None:
        self.root = Path(root).expanduser()
        if not (self.root.is_dir() or (self.root.suffix.lower() in self.listings and self.root.is_file())):
            raise ConfigError(f"data.root: {root}: no such folder; expected the folder {holds}")
        self.bands = bands
        self.readers = {task.name: task for task in readers}

    def _must_have(self, split: str) -> None:
        """Raises ConfigError for a split that there is not."""
        if split not in self.splits:
            raise ConfigError(f"data.splits: no split {split!r}; it has {', '.join(self.splits)}")

    def _read(self, index: int) -> tuple[Tensor, str | None]:
        image, note = rasters.read_image(self._images[self.ids[index]], bands=self.bands)
        self.notes.update(note.split("; ") if note else ())
        return image, note

    def image(self, index: int) -> Tensor:
        return self._read(index)[0]

    def __getitem__(self, index: int) -> Sample:
        path = self._images[self.ids[index]]
        image, note = self._read(index)
        annotations = {}
        for name, reader in self.readers.items():
            annotation = self.annotation(index, name)
            if annotation is None:
                continue
            self.notes.update(reader.notes(annotation))
            own = reader.size(annotation)
            if own is not None and own != tuple(image.shape[-2:]):
                (height, width), (h, w) = image.shape[-2:], own
                turned = "EXIF" in (note or "") and (h, w) == (width, height)
                raise DataError(
                    f"{self.file(index, name) or f'tasks.{name}'}: label is {w}x{h} but its image {path} is "
                    f"{width}x{height}; expected the same size"
                    + ("; the image's EXIF turns it and the label has none: save both upright" if turned else "")
                )
            annotations[name] = annotation
        return Sample(self.ids[index], image, annotations)

    def file(self, index: int, task: str | None = None) -> Path | None:
        label = self._images[self.ids[index]] if task is None else self._labels[task].get(self.ids[index])
        label = label[0] if isinstance(label, tuple) else label
        return label if isinstance(label, Path) else None

    def labelled(self, task: str) -> int:
        return len(self._labels[task])

    def has_label(self, index: int, task: str) -> bool:
        return self.ids[index] in self._labels[task]

    def fingerprint(self) -> str:
        """Covers ids, table cells, and size and three blocks of every file; all bytes would take an epoch's time."""
        digest = hashlib.sha256()
        for id in self.ids:
            parts = [self._images[id], *(labels.get(id) for labels in self._labels.values())]
            digest.update(repr((id, [_summary(p) for p in parts])).encode())
        return digest.hexdigest()


class TaskFiles(ImageFiles):
    """What formats share whose labels the tasks read themselves: from files, or from cells of a table.

    Attributes:
        layer: of each task.
    """

    layer: Mapping[str, str]
    _source: Path
    """The table with the cells."""

    def annotation(self, index: int, task: str) -> Tensor | None:
        label = self._labels[task].get(self.ids[index])
        if label is None:
            return None
        reader = self.readers[task]
        if callable(label):
            return label()
        if isinstance(label, Path):
            return reader.read(label)
        assert isinstance(label, str)
        try:
            annotation = reader.parse(label)
        except DataError as error:
            raise DataError(f"{self._source}: image {self.ids[index]!r}: {error}") from None
        return annotation if annotation is not None else reader.read(self.root / label)

    def _from_file(self, task: Task, path: Path, pool: Mapping[str, Path], whole: bool) -> Mapping[str, Label]:
        """Labels of all images from one file; `whole` says that it is of other parts of the data too."""
        labels = task.read_all(path)
        if labels is None:
            where = f"data.tasks.{self.layer[task.name]}"
            raise ConfigError(f"{where}: {path}: a file; expected a folder of labels, or a column of a table")
        files = {without_suffix(name.replace("\\", "/")): name for name in labels}
        named = {id: files[name] for id, name in by_end(files, pool).items()} or by_last(files, pool)
        if files and not named:
            raise DataError(
                f"{path}: no label belongs to an image; {examples(files, pool, 'labels')}; expected the same names"
            )
        if not whole and (missing := sorted(labels.keys() - named.values())):
            self.notes[f"{path.name}: {len(missing)} of its images are not in the data, such as {missing[0]!r}"] = 1
        return {id: labels[name] for id, name in named.items()}


def _summary(path: Label | None) -> Any:
    """What stands for a label or an image in a fingerprint."""
    if callable(path):
        return path().tolist()
    if isinstance(path, tuple):
        return [_summary(part) if isinstance(part, Path) else part for part in path]
    if not isinstance(path, Path):
        return path
    if path.is_dir():
        return [(part.name, _summary(part)) for part in sorted(path.iterdir())]
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            return size, [_block(file, start) for start in (0, size // 2, max(0, size - 4096))]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path, or leave it out") from None


def _block(file: IO[bytes], start: int) -> bytes:
    file.seek(start)
    return hashlib.sha256(file.read(4096)).digest()
